"""Key-value agreement and compositionality of memories over blocks, with errors, controls and chance levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result


@dataclass(frozen=True)
class KeyValueAgreement(Result):
    """Key-value agreement and compositionality; arrays are (parts, groups of tokens, blocks) unless stated otherwise.

    All arrays except the class rates are means over images of a share of each image's tokens. Their errors are over
    images, with the weights held fixed. Tokens that activate much the same memories in all images deviate from chance
    by what these memories happen to be, whether the model is trained or not. The control uses the same memories, and so
    separates this effect from agreement.

    Attributes:
        names: Names of the blocks.
        parts: ``attn`` and ``mlp``.
        groups: ``CLS``, if there is a class token, and ``image``.
        rate: Share of tokens with a memory of the image's class among the k that they activate most.
        rate_stderr: Standard error of the rate over images.
        rate_low: Lower end of the rate's bootstrap interval over images.
        rate_high: Upper end of that interval.
        control: The same share for one other class per image, drawn at random.
        control_stderr: Standard error of the control over images.
        excess: Rate minus control.
        excess_stderr: Standard error of the excess over images, paired.
        excess_p: One-sided p-value that the excess is above 0, paired by image.
        chance: Rate expected of k memories drawn at random, for the classes of the images.
        match: Share of tokens where the part's own strongest class is that of one of the k memories. It is high where
            single memories decide, and low where many are composed.
        match_stderr: Standard error of the match over images.
        match_low: Lower end of the match's bootstrap interval over images.
        match_high: Upper end of that interval.
        match_chance: Match expected of k memories drawn at random, for the strongest classes of the part.
        gap: Rate on images that the model classifies correctly minus the rate on the others; NaN if either is missing.
            It does not separate hard classes from classes whose memories are rarely activated.
        gap_stderr: Standard error of the gap over images; NaN with fewer than two images of either kind.
        gap_p: One-sided p-value that the gap is above 0, unpaired.
        true_logit: What the k memories add to the logit of the image's class, mean over memories and tokens.
        true_logit_stderr: Standard error of the true logit over images.
        control_logit: What the k memories add to the logit of the control class.
        control_logit_stderr: Standard error of the control logit over images.
        class_rate: Rate over the images of each class, (parts, groups, blocks, classes); NaN without images.
        class_count: Number of images of each class, (classes,).
        n_correct: Number of images that the model classifies correctly; 0 without labels.
        n_wrong: Number of images that it classifies wrongly; 0 without labels.
        provenance: What the result was made from.
    """

    names: list[str]
    parts: list[str]
    groups: list[str]
    rate: np.ndarray
    rate_stderr: np.ndarray
    rate_low: np.ndarray
    rate_high: np.ndarray
    control: np.ndarray
    control_stderr: np.ndarray
    excess: np.ndarray
    excess_stderr: np.ndarray
    excess_p: np.ndarray
    chance: np.ndarray
    match: np.ndarray
    match_stderr: np.ndarray
    match_low: np.ndarray
    match_high: np.ndarray
    match_chance: np.ndarray
    gap: np.ndarray
    gap_stderr: np.ndarray
    gap_p: np.ndarray
    true_logit: np.ndarray
    true_logit_stderr: np.ndarray
    control_logit: np.ndarray
    control_logit_stderr: np.ndarray
    class_rate: np.ndarray
    class_count: np.ndarray
    n_correct: int
    n_wrong: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def of(self, value: str, part: str, group: str = "image") -> np.ndarray:
        """Return a value over all blocks.

        Args:
            value: Name of an attribute.
            part: ``"attn"`` or ``"mlp"``.
            group: ``"CLS"`` or ``"image"``.

        Raises:
            ValueError: If the model has no such part or tokens.
        """
        if part not in self.parts or group not in self.groups:
            raise ValueError(
                f"{part!r} of {group!r} tokens is not there; choose from {', '.join(self.parts)} and "
                f"{', '.join(self.groups)}"
            )
        return getattr(self, value)[self.parts.index(part), self.groups.index(group)]

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each part, group of tokens and block; classes are left out."""
        index = pd.MultiIndex.from_product([self.parts, self.groups, self.names], names=["part", "tokens", "block"])
        columns = {name: value.ravel() for name, value in vars(self).items() if np.shape(value) == self.rate.shape}
        return pd.DataFrame(columns, index).reset_index()
