"""The analyses of several models at once: layers matched across seeds, and the way of weights through training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from utilities.analysis.loss import trajectory as weights
from utilities.cli.analyse import Call
from utilities.cli.opening import Named, epoch_of, labels, open_model
from utilities.compare import layer_matching as matching
from utilities.hooks.recorder import select_layers
from utilities.hooks.views import check_view
from utilities.results.formatting import counted
from utilities.study.layer_matching import NAME, RECIPE, comparison_loader, trained_networks
from utilities.utils import PROJECT_ROOT
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.plain_cnn import WIDTHS
from utilities.zoo.trained_on import refuse_other_classes


def trajectory(call: Call) -> dict[str, weights.Trajectory]:
    """Draw the way of weights through training in polar coordinates, beside that of a random walk.

    Args:
        call: The command; its models are snapshots, such as those of train --save-every: NAME=RUN_at_0.pth and so on.
    """
    found: dict[str, dict[int, Any]] = {}
    for model in call.models:
        epoch = epoch_of(model)
        if not model.from_file or epoch is None:
            raise ValueError(f"{model.name}={model.weights} is no snapshot of a training; name NAME=RUN_at_EPOCH.pth")
        if epoch in found.setdefault(model.name, {}):
            raise ValueError(f"there are two snapshots of {model.name} of epoch {epoch}; name those of one training")
        found[model.name][epoch] = create_model(model.name, None, model.weights)
    return {
        name: weights.trajectory(snapshots, random_walk_seed=call.given.seed, provenance={"model": name})
        for name, snapshots in found.items()
    }


def layer_matching(
    call: Call,
    *,
    n_networks: int = 4,
    widths: Sequence[int] = WIDTHS,
    epochs: int = RECIPE.epochs,
    train_batch: int = RECIPE.batch_size,
    optimizer: str = "adamw",
    learning_rate: float = 3e-3,
    weight_decay: float | None = None,
    warmup: float = RECIPE.warmup,
    n_train: int | None = None,
    train_precision: str = "auto",
    checkpoints: Path = PROJECT_ROOT / "checkpoints",
    measures: Sequence[str] = tuple(matching.INDEXES),
    views: Sequence[str] = matching.VIEWS,
    layers: Sequence[str] = (),
) -> dict[str, matching.LayerMatching]:
    """Tell which measures of similarity find the layer at the same place in a network of another seed.

    Args:
        call: The command. Several models are compared as they are. One model by its name, plain_cnn8 where none is
            named, is trained from several seeds, or loaded where it has been.
        n_networks: Number of networks to train where one is named, of the seeds 0, 1, ...
        widths: Channels of each block of plain_cnn8.
        epochs: Number of training epochs.
        train_batch: Images in a step of training.
        optimizer: Optimiser of the training: adamw or sgd.
        learning_rate: At its peak.
        weight_decay: Default: 5e-4 for sgd, 0.05 for adamw.
        warmup: Epochs of linear growth of the learning rate.
        n_train: Train on this many images, of all classes alike; default: all.
        train_precision: Precision of the training: auto, float32, bfloat16 or float16.
        checkpoints: Folder of the trained networks.
        measures: Some of the measures.
        views: What stands for an image: flatten, gap, ...; one column each.
        layers: Globs over the layers of one network; default: the blocks of plain_cnn8; needed for other models.
    """
    given = call.given
    for view in views:
        check_view(view)
    loader = comparison_loader(given.dataset, given.n_images, given.batch_size, given.image_size, root=given.root)
    facts: dict[str, Any] = {"dataset": loader.dataset.name}
    (one,) = call.models if len(call.models) == 1 else (Named(NAME),)
    if len(call.models) > 1:
        networks, trained = _named(call.models, loader)
        if layers:
            select_layers(networks[0], list(layers))
    else:
        if one.weights != "random":
            raise ValueError(
                f"{one.name}={one.weights} is one network, and two or more are needed: name several, or {one.name} "
                "alone, of which --n-networks are trained"
            )
        if one.name != NAME and not layers:
            raise ValueError(f"--layers is missing: which layers of {one.name} are matched, such as 'layer*.relu2'")
        if one.name != NAME and tuple(widths) != WIDTHS:
            raise ValueError(f"--widths are those of {NAME}, not of {one.name}")
        if n_networks < 2:
            raise ValueError(f"--n-networks {n_networks}: two networks or more are needed")
        recipe = replace(
            RECIPE,
            dataset=given.dataset,
            epochs=epochs,
            batch_size=train_batch,
            learning_rate=learning_rate,
            optimizer=optimizer,
            weight_decay=weight_decay,
            warmup=warmup,
            image_size=given.image_size,
            n_images=n_train,
        ).resolved(one.name)
        folder = checkpoints / re.sub(r"\W+", "-", given.dataset)
        run = {"device": given.device, "precision": train_precision, "workers": given.workers}
        networks, trained = trained_networks(recipe, range(n_networks), folder, name=one.name, widths=widths, **run)
        facts |= ({"channels": list(widths)} if one.name == NAME else {}) | {"recipe": asdict(recipe)}
    chosen = {"layers": list(layers)} if layers else {}
    options = {"views": views, "device": given.device, "provenance": facts | {"trained": trained}, "report": print}
    return {"": matching.layer_matching(networks, loader, measures, **chosen, **options)}


def _named(models: Sequence[Named], loader: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Make the networks that are named, which have to be of one architecture."""
    labels(models)
    networks, facts = [], []
    for model in models:
        network, found = open_model(model, loader.dataset.num_classes)
        refuse_other_classes(network, loader.dataset)
        content = read_checkpoint(Path(model.weights)) if model.from_file else {}
        facts.append(found | {"seed": content.get("seed"), "test": (content.get("test") or {}).get("top1")})
        networks.append(network)
    return networks, facts


def report_matching(results: Mapping[str, matching.LayerMatching], given: SimpleNamespace) -> dict[str, pd.DataFrame]:
    """Print the table of the measures."""
    (result,) = results.values()
    facts = result.provenance
    known = [network["test"] for network in facts["trained"] if network["test"] is not None]
    accuracies = f", test accuracies {', '.join(f'{100 * value:.1f}' for value in known)} %" if known else ""
    print(
        f"\n{facts['networks']} networks on {facts['dataset']}{accuracies}\n"
        f"{counted(result.n, 'test image')} in batches of {facts['batch_size']}, standard errors by jackknife over "
        f"networks\n\n{result.table()}"
    )
    return {}
