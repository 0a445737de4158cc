"""Fit the affine maps of stitches: in closed form from one pass over training images, and trained on from there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from utilities.compare.stitching.cuts import replacing
from utilities.compare.stitching.plan import Stitch
from utilities.compare.stitching.sides import Batch, Seen, Sides
from utilities.compare.stitching.sums import Affine, FeatureSums, Key, Regressions
from utilities.hooks.calls.labels import check_batch

FOLDS = 5  # one of so many training images is held out to choose penalties on
Maps = Mapping[str, Mapping[str, Affine]]  # stitch -> part -> map


def bytes_needed(stitches: Sequence[Stitch]) -> int:
    """Count the bytes of the sums for all stitches, what they share counted once."""
    inputs, crosses = {}, 0
    for stitch in stitches:
        for part in stitch.parts:
            inputs[stitch.keys(part)[0]] = stitch.shape1.width
            crosses += stitch.shape1.width * stitch.shape2.width
    return 8 * (sum(width**2 for width in inputs.values()) + crosses)


class Fitting:
    """Sum training images, and solve for all maps.

    Args:
        stitches: What is to be fitted.
        penalty: See `utilities.compare.stitching.stitches.stitch`.
    """

    def __init__(self, stitches: Sequence[Stitch], penalty: float | None) -> None:
        self.stitches, self.penalty = stitches, penalty
        self.fitted, self.held_out = FeatureSums(), FeatureSums()
        self.count = 0

    def add(self, seen: Seen) -> None:
        """Add what both models make of a batch. Which images are held out does not depend on the batch size."""
        n = len(next(iter(seen.features1.values())))
        held = (torch.arange(self.count, self.count + n) % FOLDS == FOLDS - 1) & (self.penalty is None)
        self.count += n
        for sums, rows in ((self.fitted, ~held), (self.held_out, held)):
            if rows.any():
                self._add(sums, seen, rows)

    def _add(self, sums: FeatureSums, seen: Seen, rows: torch.Tensor) -> None:
        inputs: dict[Key, torch.Tensor] = {}
        targets: dict[Key, torch.Tensor] = {}
        pairs: dict[tuple[Key, Key], None] = {}
        for stitch in self.stitches:
            for part in stitch.parts:
                one, two = stitch.keys(part)
                pairs[one, two] = None
                if one not in inputs:
                    inputs[one] = _rows(stitch.read(seen.features1[stitch.layer1], part), rows)
                if two not in targets:
                    targets[two] = _rows(stitch.target(seen.features2[stitch.layer2], part), rows)
        sums.add(inputs, targets, list(pairs))

    def solve(self) -> dict[str, dict[str, Affine]]:
        """Solve for the maps of each stitch.

        Raises:
            ValueError: If features are not finite, or no image is held out to choose the penalty on.
        """
        for key, total in self.fitted.totals.items():
            if not total.isfinite().all():
                raise ValueError(f"layer {key[0]!r} puts out NaN or infinity; look at the weights and the images")
        if self.penalty is None and not self.held_out.counts:
            raise ValueError(
                f"{self.count} training images leave none to choose the penalty on; pass penalty=, such as 1e-6, or "
                f"{FOLDS} images or more"
            )
        self._warn_of_few()
        found = Regressions(self.fitted, self.held_out if self.held_out.counts else None)
        return {
            str(stitch): {part.name: found.solve(*stitch.keys(part), self.penalty) for part in stitch.parts}
            for stitch in self.stitches
        }

    def _warn_of_few(self) -> None:
        """Warn of maps that are not determined, for there are fewer samples than channels: they may lose anything."""
        few = {}
        for stitch in self.stitches:
            for part in stitch.parts:
                one = stitch.keys(part)[0]
                count = self.fitted.counts[one] + self.held_out.counts.get(one, 0)
                if count <= stitch.shape1.width:
                    few[str(stitch)] = f"{stitch} ({count:,} for {stitch.shape1.width:,})"
        if few:
            warnings.warn(
                "fewer samples than channels to fit maps to, so that even a network with itself may lose something; "
                f"give more training images: {', '.join(few.values())}",
                stacklevel=4,
            )


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Choose images, and put their positions below each other."""
    return values[rows.to(values.device)].flatten(0, 1)


def made_by(stitch: Stitch, maps: Mapping[str, Affine], features: torch.Tensor) -> dict[str, torch.Tensor]:
    """Map the first model's features, part by part."""
    return {part.name: maps[part.name](stitch.read(features, part)) for part in stitch.parts}


class _Trained(nn.Module):
    """The maps of one stitch as parameters, in units of the spread of what they read and make.

    So one learning rate suits layers of all scales.
    """

    def __init__(self, stitch: Stitch, maps: Mapping[str, Affine], scales: Mapping[str, tuple], device: torch.device):
        super().__init__()
        self.stitch, self.scales = stitch, scales
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for name, one in maps.items():
            key, (mean, wide, high) = name.replace(" ", "_"), scales[name]
            start = one.weight.cpu() * wide / high, (one.bias.cpu() + mean @ one.weight.cpu()) / high
            self.weights[key], self.biases[key] = (nn.Parameter(value.float().to(device)) for value in start)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        made = {}
        for part in self.stitch.parts:
            key, (mean, wide, high) = part.name.replace(" ", "_"), self.scales[part.name]
            x = (self.stitch.read(features, part) - mean.to(features)) / wide
            weight = self.weights[key]
            made[part.name] = high * (x.to(weight) @ weight + self.biases[key])
        return self.stitch.join(made)

    def maps(self, closed: Mapping[str, Affine]) -> dict[str, Affine]:
        """Return the maps as they are now, in the features' own units."""
        found = {}
        for name, one in closed.items():
            key, (mean, wide, high) = name.replace(" ", "_"), self.scales[name]
            weight = self.weights[key].detach().cpu().double() * high / wide
            bias = self.biases[key].detach().cpu().double() * high - mean @ weight
            found[name] = Affine(weight, bias, one.penalty, float("nan"))
        return found


def _scales(stitch: Stitch, sums: FeatureSums) -> dict[str, tuple]:
    """Compute the mean of what each map reads, its spread, and the spread of what it makes."""
    found = {}
    for part in stitch.parts:
        one, two = stitch.keys(part)
        n = sums.counts[one]
        mean, other = (sums.totals[key].cpu() / n for key in (one, two))
        wide = (sums.grams[one].diagonal().cpu() / n - mean.square()).clamp(min=0).mean().sqrt()
        high = (sums.squares[two].cpu() / n - other.square()).clamp(min=0).mean().sqrt()
        found[part.name] = mean, float(wide) or 1.0, float(high) or 1.0
    return found


def train(
    sides: Sides,
    fitting: Fitting,
    maps: Maps,
    read: Callable[[int], Iterable[Batch]],
    epochs: int,
    learning_rate: float,
) -> dict[str, dict[str, Affine]]:
    """Train the maps on the cross entropy of the second model, both models frozen, from the closed form on.

    Args:
        sides: Both models, in eval mode.
        fitting: The sums, for the units of the maps.
        maps: Where to start.
        read: Serves the batches of training images of an epoch.
        epochs: Number of epochs.
        learning_rate: Learning rate of AdamW, whose other settings are torch's own; it falls to 0 along a cosine.

    Returns:
        The trained maps.
    """
    model, device = sides.models[1], sides.devices[1]
    modules = {
        str(stitch): _Trained(stitch, maps[str(stitch)], _scales(stitch, fitting.fitted), device)
        for stitch in fitting.stitches
    }
    steps = {name: torch.optim.AdamW(module.parameters(), lr=learning_rate) for name, module in modules.items()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        for epoch in range(epochs):
            for step in steps.values():
                step.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            for batch in read(epoch):
                seen = sides.see(batch)
                for name, module in modules.items():
                    _step(sides, module, steps[name], seen, batch)
    finally:
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
    return {name: module.maps(maps[name]) for name, module in modules.items()}


def _step(sides: Sides, module: _Trained, optimizer: torch.optim.Optimizer, seen: Seen, batch: Batch) -> None:
    features = seen.features1[module.stitch.layer1].to(sides.devices[1])
    with torch.enable_grad():
        made = module(features)
        with replacing(sides.models[1], module.stitch.layer2, lambda output: made):
            logits = sides.models[1](batch.images2)
        loss = F.cross_entropy(logits.float(), check_batch(logits, batch.labels))
        optimizer.zero_grad()
        loss.backward()
    optimizer.step()
