"""What layers of Vision Transformers say about the classes (Vilas et al. 2023, https://arxiv.org/abs/2310.18969).

The functions `identifiability`, `importance`, `lens` and `logit_attribution` are in the modules of those names; `space`
and `spaces` project into class-embedding space, `readers` read all blocks in one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.analysis.class_embedding.agreement import ClassValueAgreement, class_value_agreement
    from utilities.analysis.class_embedding.gradient_map import gradient_maps
    from utilities.analysis.class_embedding.identifiability import Identifiability
    from utilities.analysis.class_embedding.importance import Importance
    from utilities.analysis.class_embedding.inspection import inspect_class, inspect_memories
    from utilities.analysis.class_embedding.key_value import KeyValueAgreement, key_value_agreement
    from utilities.analysis.class_embedding.lens import Lens
    from utilities.analysis.class_embedding.lens_kl import LensKL, tuned_lens_kl
    from utilities.analysis.class_embedding.logit_attribution import LogitAttribution, components_of
    from utilities.analysis.class_embedding.perturbation import Perturbation, perturb, perturb_each_block
    from utilities.analysis.class_embedding.probes import LinearProbes, linear_probes
    from utilities.analysis.class_embedding.relevance import relevance_maps
    from utilities.analysis.class_embedding.removal import RemovalCurves, removal_curves
    from utilities.analysis.class_embedding.space import LensOptions
    from utilities.analysis.class_embedding.spaces import class_space
    from utilities.analysis.class_embedding.tuned import TunedLens
    from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens

__all__ = [
    "ClassValueAgreement",
    "Identifiability",
    "Importance",
    "KeyValueAgreement",
    "Lens",
    "LensKL",
    "LensOptions",
    "LinearProbes",
    "LogitAttribution",
    "Perturbation",
    "RemovalCurves",
    "TunedLens",
    "class_space",
    "class_value_agreement",
    "components_of",
    "fit_tuned_lens",
    "gradient_maps",
    "inspect_class",
    "inspect_memories",
    "key_value_agreement",
    "linear_probes",
    "perturb",
    "perturb_each_block",
    "relevance_maps",
    "removal_curves",
    "tuned_lens_kl",
]
__getattr__ = hand_on(
    __name__,
    {
        "agreement": ["ClassValueAgreement", "class_value_agreement"],
        "gradient_map": ["gradient_maps"],
        "identifiability": ["Identifiability"],
        "importance": ["Importance"],
        "inspection": ["inspect_class", "inspect_memories"],
        "key_value": ["KeyValueAgreement", "key_value_agreement"],
        "lens": ["Lens"],
        "lens_kl": ["LensKL", "tuned_lens_kl"],
        "logit_attribution": ["LogitAttribution", "components_of"],
        "perturbation": ["Perturbation", "perturb", "perturb_each_block"],
        "probes": ["LinearProbes", "linear_probes"],
        "relevance": ["relevance_maps"],
        "removal": ["RemovalCurves", "removal_curves"],
        "space": ["LensOptions"],
        "spaces": ["class_space"],
        "tuned": ["TunedLens"],
        "tuned_fit": ["fit_tuned_lens"],
    },
)
