"""Key-value agreement and compositionality of memories over blocks: rates with their errors, controls and chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results import Result


@dataclass(frozen=True)
class KeyValueAgreement(Result):
    """Key-value agreement and compositionality; arrays are (parts, groups of tokens, blocks) unless stated otherwise.

    All but the class rates are means over images, of the share of an image's tokens. Their errors are over images, with
    the weights as they are: tokens that switch on much the same memories in all images differ from chance by what
    these memories happen to be, trained or not. The control shares them, and tells the two apart.

    Attributes:
        names: Of the blocks.
        parts: ``attn`` and ``mlp``.
        groups: ``CLS``, where there is a class token, and ``image``.
        rate: Share of tokens with a memory of the image's class among the k that they switch on most.
        rate_stderr: Its standard error over images.
        rate_low: Lower end of its bootstrap interval over images.
        rate_high: Upper end.
        control: The same share for one other class of each image, drawn at random.
        control_stderr: Its standard error over images.
        excess: Rate less control.
        excess_stderr: Its standard error over images, paired.
        excess_p: One-sided p-value that it is above 0, paired by image.
        chance: The rate that k memories drawn without looking would have, for the classes of the images.
        match: Share of tokens where the part's own strongest class is that of one of the k memories: high where
            single memories decide, low where many are composed.
        match_stderr: Its standard error over images.
        match_low: Lower end of its bootstrap interval over images.
        match_high: Upper end.
        match_chance: That share for k memories drawn without looking, for the classes that the part said.
        gap: Rate on images that the model classifies correctly less that on the others; NaN without either. Classes
            that are hard and classes whose memories are rarely met are not told apart.
        gap_stderr: Its standard error over images; NaN with fewer than two of either.
        gap_p: One-sided p-value that it is above 0, unpaired.
        true_logit: What the k memories add to the logit of the image's class, mean over them and the tokens.
        true_logit_stderr: Its standard error over images.
        control_logit: What they add to the logit of the other class.
        control_logit_stderr: Its standard error over images.
        class_rate: Rate over the images of each class, (parts, groups, blocks, classes); NaN without images.
        class_count: Images of each class, (classes,).
        n_correct: Images that the model classifies correctly; 0 without labels.
        n_wrong: Images that it does not; 0 without labels.
        provenance: What it was made from.
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
        """Give a value of all blocks.

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
