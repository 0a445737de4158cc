"""The claims that are committed are those of the committed results, and each names what it rests on."""

import pandas as pd
import pytest

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.blocks.localisation import Localisation
from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.claims.raghu_2021 import (
    claims_of_head_windows,
    claims_of_layer_probes,
    claims_of_localisation,
    claims_of_receptive_field,
    claims_of_similarity,
    claims_of_skips,
)
from utilities.claims.vilas_2023 import claims_of_identifiability
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

RESULTS = PROJECT_ROOT / "results"
CNN, VIT = "tf_efficientnet_lite0", "vit_small_patch14_dinov2"
COLUMNS = ["claim", "source", "found", "holds", "about", "weights", "models", "data", "short"]


def load(kind, **files):
    return {label: kind.load(RESULTS / name) for label, name in files.items()}


def similarities():
    pairs = {(CNN, CNN): "Real_Weights", (CNN, VIT): f"Real_Weights_trained_{CNN}_{VIT}"}
    pairs[VIT, VIT] = f"Real_Weights_trained_{VIT}_{VIT}"
    return claims_of_similarity({pair: Similarity.load(RESULTS / name) for pair, name in pairs.items()})


def head_windows():
    names = {f"heads of the {one} block": f"Attention_Distance_heads-of-the-{one}-block" for one in ("first", "second")}
    return claims_of_head_windows(load(HeadWindowSimilarity, **names))


def layer_probes():
    probes = load(LayerProbes, **{VIT: "Layer_Probes", CNN: f"Layer_Probes_real_{CNN}"})
    lens = load(Identifiability, **{VIT: f"Layer_Probes_lens_{VIT}"})
    return claims_of_layer_probes(probes) + claims_of_identifiability(lens)


def receptive_field():
    return claims_of_receptive_field(load(ReceptiveField, **{CNN: "Receptive_Field", VIT: f"Receptive_Field_{VIT}"}))


def skips():
    return claims_of_skips(load(SkipRatios, **{CNN: "Skip_Connections", VIT: f"Skip_Connections_real_{VIT}"}))


JUDGED = {
    "Real_Weights": similarities,
    "Attention_Distance": head_windows,
    "Layer_Probes": layer_probes,
    "Receptive_Field": receptive_field,
    "Skip_Connections": skips,
}


@pytest.mark.parametrize("notebook", JUDGED)
def test_committed_claims_are_those_of_committed_results(notebook):
    kept = pd.read_csv(RESULTS / f"{notebook}_claims.csv", dtype=str).fillna("")
    rows = kept[COLUMNS].to_numpy().tolist()
    for claim in JUDGED[notebook]():
        own = ["" if getattr(claim, name) is None else str(getattr(claim, name)) for name in COLUMNS]
        assert own in rows


def test_what_was_not_run_stands_with_the_real_weights_that_were():
    alone = {"localisation": claims_of_localisation(load(Localisation, **{VIT: "Spatial_Localisation"}))}
    alone["probes"] = claims_of_layer_probes(load(LayerProbes, **{VIT: "Layer_Probes"}))
    alone["skips"] = claims_of_skips(load(SkipRatios, **{CNN: "Skip_Connections"}))
    for claims in alone.values():
        assert {claim.weights for claim in claims} == {"real"}
        assert all(claim.models and claim.data for claim in claims)
        assert "not tried" in {claim.reason for claim in claims}
