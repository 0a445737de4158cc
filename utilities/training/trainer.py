"""Train a model: a trainer that runs a recipe one epoch at a time."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from utilities.datasets.loaders import Loader
from utilities.hooks.calls.inputs import check_gradients, explaining
from utilities.hooks.calls.labels import check_labels, check_logits, hits, need_labels
from utilities.hooks.calls.processes import Processes
from utilities.hooks.calls.sending import send
from utilities.hooks.calls.weights import check_weights
from utilities.training.augmentation import Blend
from utilities.training.distillation import distillation_loss
from utilities.training.evaluation import estimate_batch_norm, evaluate_shared
from utilities.training.optimizers import make_optimizer
from utilities.training.precision import PRECISIONS, autocast_dtype
from utilities.training.recipes import OPTIMIZERS, Recipe, schedule
from utilities.training.step_draws import StepDraws, drops_at_random
from utilities.utils import resolve_device, split_batch

__all__ = ["OPTIMIZERS", "PRECISIONS", "Recipe", "Trainer", "autocast_dtype", "estimate_batch_norm"]

DIVERGENCE_REMEDY = "use a smaller --learning-rate, a --warmup of a few epochs, or --precision float32"
CHECK_EVERY = 20  # steps between checks of the loss, each of which makes a GPU wait


class Trainer:
    """Hold one training run: its model, optimiser, schedule and the history of its epochs.

    Augmentation is the training loader's. Mixup and cutmix are drawn here from the loader's seed, the epoch and the
    step. The accuracy on mixed images is counted against the label with the largest weight.

    Args:
        model: Model to train in place, on the device.
        recipe: See `utilities.training.recipes.Recipe`, resolved.
        train: Loader of the training images.
        validation: Loader of held-out images.
        device: See `utilities.utils.resolve_device`.
        precision: See `autocast_dtype`.
        teacher: A trained model whose answers are learnt besides the labels, see `utilities.training.distillation`.
        sync_norms: Whether batch norms take their statistics from the images of all processes, not of their own.
        accumulate: Number of parts in which a step computes its batch, for want of memory; their gradients add up.
        compiled: Whether torch.compile makes the model's code, which pays in long trainings.
        processes: This process's place among those that train together, each on its share of every batch; None is
            that in the group it has joined. All of them hold the same model and loaders.

    Raises:
        ValueError: If weights of the model or the teacher are not finite, or batch norms cannot be synchronised.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> data = make_loader(load_dataset("digits", "train", n_images=40), 20, shuffle="every_epoch")
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
        >>> trainer = Trainer(model, Recipe(epochs=1).resolved("linear"), data, data, device="cpu")
        >>> list(trainer.run_epoch(progress=False))
        ['epoch', 'learning_rate', 'train_loss', 'train_top1', 'train_top5', 'loss', 'top1', 'top5', 'n', 'seconds']
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        train: Loader,
        validation: Loader,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        teacher: nn.Module | None = None,
        sync_norms: bool = False,
        accumulate: int = 1,
        compiled: bool = False,
        processes: Processes | None = None,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate} should be 1 or more")
        for one in (model, teacher):
            if one is not None:
                check_weights(one)
        self.device = resolve_device(device)
        self.teacher = None if teacher is None else teacher.to(self.device).eval()
        self.dtype = autocast_dtype(precision, self.device)
        self.model, self.train, self.validation = model.to(self.device), train, validation
        # Convolutions in half precision compute with channels last, and would convert what comes otherwise.
        self.layout = torch.channels_last if self.dtype else torch.preserve_format
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=self.layout)
        self.recipe, self.processes = recipe, processes or Processes.now()
        self.optimizer = make_optimizer(self.model, recipe)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule(recipe, len(train)))
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)
        self.history: list[dict[str, float]] = []
        self.precisions: list[list[Any]] = []  # pairs of epochs and their precision, in order
        self.after_step: Callable[[], None] | None = None  # called after each step but an epoch's last one
        self.accumulate = accumulate
        self.network = self._shared(sync_norms)
        self.drops = drops_at_random(model) and not compiled  # compiled code draws by itself
        self.network = torch.compile(self.network) if compiled else self.network
        # Its first steps forget sooner, so that the initial weights do not linger.
        self.average = ModelEmaV3(self.model, recipe.ema, use_warmup=True) if recipe.ema else None
        self._begin_epoch()
        self._draw_apart()

    def _draw_apart(self) -> None:
        """Let other processes than the first drop out other units than it does."""
        if self.processes.rank:
            torch.manual_seed(
                torch.initial_seed() + len(self.history) * len(self.train) + self.step + self.processes.rank
            )

    def _shared(self, sync_norms: bool) -> nn.Module:
        """Return what is called in a step: the model, or with several processes what averages their gradients."""
        norms = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        if sync_norms and not norms:
            warnings.warn("the model has no batch norms to synchronise: sync_norms does nothing", stacklevel=4)
        if sync_norms and norms:
            if self.device.type != "cuda":
                raise ValueError(
                    f"batch norms ({norms[0]} and others) cannot be synchronised on {self.device.type}: torch's "
                    "SyncBatchNorm needs CUDA; without sync_norms (--sync-norms) each process normalises its own share"
                )
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if self.processes.count == 1:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices)

    def _begin_epoch(self) -> None:
        """Forget the steps of the last epoch."""
        self.step, self.count, self.seconds, self.draws = 0, 0, 0.0, None
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.total = torch.zeros(3, device=self.device)  # loss and right answers of this process's images

    def run_epoch(self, progress: bool = True) -> dict[str, float]:
        """Train for one epoch, or for what is left of one that was interrupted, then validate.

        Args:
            progress: Whether to show a progress bar.

        Returns:
            The epoch's row of the table. ``learning_rate`` is that of its first step, ``train_...`` are means over the
            images that took part in its steps, and ``loss``, ``top1`` and ``top5`` belong to the validation images.

        Raises:
            FloatingPointError: If the loss is no longer finite.
            ValueError: If there are no labels, or if they are not classes of the model.
        """
        check_gradients("training")
        epoch, before, start = len(self.history), self.seconds, time.perf_counter()
        self.model.train()
        options = {"desc": f"epoch {epoch + 1}", "delay": 2, "leave": False}
        options |= {"disable": not progress or self.processes.rank > 0, "initial": self.step}
        # Not a bar around the loader: tqdm would start an iteration, with workers, that nobody finishes.
        with tqdm(total=len(self.train), **options) as bar:
            for batch, whole in self._served(epoch + 1):  # as the table numbers it
                images, labels = split_batch(batch)
                need_labels(labels, "training needs labels:")
                own = len(self.processes.share(whole))  # 0 where the one image is a stand-in
                # Gradients are averaged over the processes, where a mean over the images of all is wanted.
                weight = own * self.processes.count / whole
                mix = self._mix(images, epoch, self.step)
                taken = self._step(self._placed(images), labels, mix, weight, whole)
                self.total += taken * (own / len(images))
                self.step, self.count = self.step + 1, self.count + whole
                self.draws = getattr(self.train, "draws", None)
                self.seconds = before + time.perf_counter() - start
                if self.step % CHECK_EVERY == 1 or self.step == len(self.train):
                    self._refuse_divergence(self.processes.total(self.total)[0].item(), epoch)
                bar.update()
                if self.after_step is not None and self.step < len(self.train):
                    self.after_step()
        self._refuse_broken_weights(epoch)
        total = self.processes.total(self.total)
        row = {
            "epoch": epoch + 1,
            "learning_rate": self.rate,
            "train_loss": total[0].item() / self.count,
            "train_top1": total[1].item() / self.count,
            "train_top5": total[2].item() / self.count,
            **evaluate_shared(self.result, self.validation, self.device, self.processes, autocast=self.dtype),
            "seconds": round(before + time.perf_counter() - start, 3),
        }
        self.history.append(row)
        if not self.precisions or self.precisions[-1][1] != self.precision:
            self.precisions.append([0, self.precision])
        self.precisions[-1][0] += 1
        self._begin_epoch()
        return row

    def _served(self, epoch: int) -> Iterator[tuple[Any, int]]:
        """Serve what is left of an epoch: the share of each batch, and the number of images in the whole batch."""
        if isinstance(self.train, Loader):
            return self.train.served(epoch, self.processes.share, self.step, self.draws)
        if self.processes.count > 1 or self.step:
            raise TypeError(
                f"{type(self.train).__name__} cannot serve shares or the rest of an epoch; make the loader of the "
                "training images by utilities.datasets.make_loader"
            )
        return ((batch, len(split_batch(batch)[0])) for batch in self.train)

    def _placed(self, images: torch.Tensor) -> torch.Tensor:
        layout = self.layout if images.ndim == 4 else torch.preserve_format
        return send(images, self.device).to(memory_format=layout)

    @property
    def result(self) -> nn.Module:
        """Return the model that the training gives: the average over its steps, where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    @property
    def precision(self) -> str:
        """Return the name of the precision that the model trains in."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def precision_facts(self) -> dict[str, Any]:
        """Return the precision of the training: in words, and as pairs of a number of epochs and its precision.

        A run that was interrupted may have continued in another precision.
        """
        parts = [f"{name} for {epochs} {'epoch' if epochs == 1 else 'epochs'}" for epochs, name in self.precisions]
        single = self.precisions[0][1] if self.precisions else self.precision
        return {"precision": ", then ".join(parts) if len(parts) > 1 else single, "precisions": self.precisions}

    def _mix(self, images: torch.Tensor, epoch: int, step: int) -> Blend | None:
        """Draw how to mix the images of a step, from (seed, epoch, step), or None if the recipe does not mix."""
        mixup, cutmix = self.recipe.mixup, self.recipe.cutmix
        if not (mixup or cutmix):
            return None
        rng = np.random.default_rng([self.train.seed, 3, epoch, step])
        return Blend.draw(mixup, cutmix, images.shape[-2:], rng)

    def _dropping(self, places: Sequence[int], whole: int) -> AbstractContextManager[Any]:
        """Draw what is dropped from (seed, epoch, step) and the images' places in the whole batch."""
        if not self.drops:
            return nullcontext()
        return StepDraws((getattr(self.train, "seed", 0), 4, len(self.history), self.step), places, whole)

    def _step(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        mix: Blend | None,
        weight: float = 1.0,
        whole: int | None = None,
    ) -> torch.Tensor:
        """Take one step; return the summed loss and the numbers of right answers, first and among the first five."""
        whole = whole or len(images)
        if mix:
            images = mix.images(images)
        self.optimizer.zero_grad(set_to_none=True)
        totals, targets, places = 0.0, None, self.processes.share(whole) or [0]
        parts = max(1, min(self.accumulate, len(images) // 2))  # batch norms cannot train on a single image
        for rows in torch.arange(len(images)).tensor_split(parts):
            last = int(rows[-1]) + 1 == len(images)
            part = images if len(rows) == len(images) else images[rows[0] : rows[-1] + 1]
            with nullcontext() if last or self.processes.count == 1 else self.network.no_sync():
                with self._dropping([places[row] for row in rows], whole):
                    logits, taught = self._answers(part)
                if targets is None:
                    targets, labels = self._targets(labels, len(images), logits.shape[1], mix)
                own, right = targets[rows[0] : rows[-1] + 1], labels[rows[0] : rows[-1] + 1]
                loss = nn.functional.cross_entropy(logits, own)
                if taught is not None:
                    loss = distillation_loss(logits, taught, own)
                self.scaler.scale(loss * (weight * len(rows) / len(images))).backward()
            with torch.no_grad():
                found = [hits(logits, right, k).sum().to(loss) for k in (1, 5)]
                totals = totals + torch.stack([loss * len(rows), *found])
        if self.recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.average is not None:
            self.average.update(self.model, self.scheduler.last_epoch)  # the number of steps
        return totals

    def _answers(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits of the model, and of the teacher if there is one."""
        precise = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        with precise, self._attention(), explaining():
            logits = self.network(images.clone())  # the model may write into its input
            with torch.no_grad():
                taught = None if self.teacher is None else self.teacher(images.clone()).float()
        check_logits(logits)
        return logits.float(), taught

    def _targets(
        self, labels: torch.Tensor, count: int, num_classes: int, mix: Blend | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the loss asks for, and the labels that answers are counted against."""
        # Labels are checked on the CPU, where they are, so that a GPU does not have to wait.
        labels = send(check_labels(labels, num_classes, count), self.device)
        if not (mix or self.recipe.label_smoothing):
            return labels, labels
        targets = (mix or Blend()).targets(labels, num_classes, self.recipe.label_smoothing)
        return targets, targets.argmax(1)

    def _attention(self) -> AbstractContextManager[None]:
        """Choose the kernel of attention: in bfloat16 on a CPU, the gradient of torch's fused one takes far longer."""
        plain = self.device.type == "cpu" and self.dtype == torch.bfloat16
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def _refuse_divergence(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"training diverged: the loss is {loss} in epoch {epoch + 1}, step {self.step}, learning rate "
                f"{self.rate:g}; {DIVERGENCE_REMEDY}"
            )

    def _refuse_broken_weights(self, epoch: int) -> None:
        """Refuse weights that the last step broke: no later loss would show it."""
        finite = {name: value.isfinite().all() for name, value in self.model.named_parameters()}
        if finite and not torch.stack(list(finite.values())).all():  # one check, for which a GPU waits
            name = next(name for name, fine in finite.items() if not fine)
            raise FloatingPointError(
                f"training diverged: {name} is not finite after epoch {epoch + 1}, learning rate {self.rate:g}; "
                f"{DIVERGENCE_REMEDY}"
            )

    def state(self) -> dict[str, Any]:
        """Return all that is needed to continue after the last epoch or, within one, after the last step.

        With several processes, all of them have to ask; any of them may then continue, or a single one.
        """
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        begun = {"step": self.step, "count": self.count, "rate": self.rate, "seconds": self.seconds}
        begun |= {"total": self.processes.total(self.total).cpu(), "draws": self.draws}
        if self.average is not None:
            parts["average"] = self.average.module
        return {name: part.state_dict() for name, part in parts.items()} | {
            "history": self.history,
            "precisions": self.precisions,
            "generators": generators,
            "begun": begun,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        for name in ("model", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        if state["scaler"]:  # empty if earlier epochs were not in float16
            self.scaler.load_state_dict(state["scaler"])
        self.history = list(state["history"])
        unknown = [[len(self.history), "unknown"]] if self.history else []  # earlier versions did not record it
        self.precisions = [list(part) for part in state.get("precisions", unknown)]
        self._begin_epoch()
        begun = dict(state.get("begun", {}))  # earlier versions saved between epochs alone
        if begun:
            total = begun.pop("total").to(self.device)
            self.total = total if self.processes.rank == 0 else torch.zeros_like(total)
            vars(self).update(begun)
        torch.set_rng_state(state["generators"]["cpu"])
        if "cuda" in state["generators"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)
        self._draw_apart()
