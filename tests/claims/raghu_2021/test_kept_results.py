"""The claims that are committed are those of the committed results, and each names what it rests on."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.blocks.localisation import Localisation
from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.claims.raghu_2021 import (
    claims_of_attention_distance,
    claims_of_head_windows,
    claims_of_layer_probes,
    claims_of_localisation,
    claims_of_receptive_field,
    claims_of_similarity,
    claims_of_skips,
)
from utilities.claims.vilas_2023 import claims_of_identifiability
from utilities.plots.blocks import plot_sharpness
from utilities.results.formatting import with_error
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

RESULTS = PROJECT_ROOT / "results"
CNN, VIT = "tf_efficientnet_lite0", "vit_small_patch14_dinov2"
ORDINALS = {7: "eighth", 8: "ninth", 9: "tenth", 10: "eleventh"}
COLUMNS = ["claim", "source", "found", "holds", "about", "weights", "models", "data", "short"]


def load(kind, **files):
    return {label: kind.load(RESULTS / name) for label, name in files.items()}


def similarities():
    pairs = {(CNN, CNN): "Real_Weights", (CNN, VIT): f"Real_Weights_trained_{CNN}_{VIT}"}
    pairs[VIT, VIT] = f"Real_Weights_trained_{VIT}_{VIT}"
    return claims_of_similarity({pair: Similarity.load(RESULTS / name) for pair, name in pairs.items()})


def attention_distance():
    """Return the claims of Figs. 3 and 5; see `FROM_ELSEWHERE` for Fig. 4."""
    names = {f"heads of the {one} block": f"Attention_Distance_heads-of-the-{one}-block" for one in ("first", "second")}
    distances = load(AttentionDistance, **{f"timm/{VIT}": "Attention_Distance"})
    return claims_of_attention_distance(distances) + claims_of_head_windows(load(HeadWindowSimilarity, **names))


def localisation():
    return claims_of_localisation(
        load(Localisation, **{VIT: "Spatial_Localisation", CNN: f"Spatial_Localisation_real_{CNN}"})
    )


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
    "Attention_Distance": attention_distance,
    "Layer_Probes": layer_probes,
    "Receptive_Field": receptive_field,
    "Skip_Connections": skips,
    "Spatial_Localisation": localisation,
}
# Committed claims that cannot be made from committed results, since what they rest on is drawn in no picture and so not
# kept: Fig. 4 needs the heads of a small ViT that learnt digits, and those of Park & Kim need curves of other analyses.
FROM_ELSEWHERE = {"Attention_Distance": ["Raghu et al. 2021, Fig. 4"]}


@pytest.mark.parametrize("notebook", JUDGED)
def test_committed_claims_are_those_of_committed_results(notebook):
    kept = pd.read_csv(RESULTS / f"{notebook}_claims.csv", dtype=str).fillna("")
    kept = kept[~kept["source"].isin(FROM_ELSEWHERE.get(notebook, []))]
    made = [["" if getattr(c, name) is None else str(getattr(c, name)) for name in COLUMNS] for c in JUDGED[notebook]()]
    assert sorted(made) == sorted(kept[COLUMNS].to_numpy().tolist())


def test_of_localisations_all_is_kept_for_every_layer_but_maps():
    for name, layers in (("Spatial_Localisation", 12), (f"Spatial_Localisation_real_{CNN}", 16)):
        result = Localisation.load(RESULTS / name)
        assert len(result.names) == len(result.depth) == len(result.summary) == len(result.grids) == layers
        assert np.isfinite(result.summary).all()
        plot_sharpness(result)
        assert np.isfinite(result.map(0, 0, 0)).all()
        with pytest.raises(ValueError, match=f"the maps of {re.escape(result.names[1])} were left out"):
            result.map(1, 0, 0)
    plt.close("all")


def test_findings_state_the_kept_numbers():
    page = " ".join((PROJECT_ROOT / "docs" / "findings.md").read_text().split())
    table = SkipRatios.load(RESULTS / f"Skip_Connections_real_{VIT}").to_frame()
    image, cls = (table.loc[table["tokens"] == which, "ratio"] for which in ("spatial", "CLS"))
    assert f"{image.min():.2f} to {image.max():.2f}, and" in page
    assert f"reach {cls.max():.1f}." in page
    probes = LayerProbes.load(RESULTS / "Layer_Probes")
    for view in ("gap", "cls"):
        accuracy, _ = probes.of(view)
        best = sorted(np.argsort(accuracy)[-3:])
        assert f"its {ORDINALS[best[0]]} to {ORDINALS[best[-1]]} ({100 * accuracy[best].min():.1f} to" in page
        assert f"{100 * accuracy[best].max():.1f}%)" in page
    own = Localisation.load(RESULTS / "Spatial_Localisation").of("found")[0]
    assert (own == 1).tolist() == [True] * 9 + [False] * 3
    first = [float(part[0]) for part in Localisation.load(RESULTS / f"Spatial_Localisation_real_{CNN}").of("contrast")]
    assert with_error(*first) in page


def test_what_was_not_run_stands_with_the_real_weights_that_were():
    alone = {"localisation": claims_of_localisation(load(Localisation, **{VIT: "Spatial_Localisation"}))}
    alone["probes"] = claims_of_layer_probes(load(LayerProbes, **{VIT: "Layer_Probes"}))
    alone["skips"] = claims_of_skips(load(SkipRatios, **{CNN: "Skip_Connections"}))
    for claims in alone.values():
        assert {claim.weights for claim in claims} == {"real"}
        assert all(claim.models and claim.data for claim in claims)
        assert "not tried" in {claim.reason for claim in claims}
