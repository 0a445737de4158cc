"""Put the claims of the papers to what `gpu_studies` kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from gpu_studies import BLOCKS

from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.variance import Variance
from utilities.analysis.predictions.classification import Classification
from utilities.claims import Claim, state_claims
from utilities.claims.raghu_2021 import claims_of_similarity
from utilities.cli.analyses import ANALYSES, find
from utilities.results.similarity import Similarity

if TYPE_CHECKING:
    from gpu import Bench

KINDS = {"fourier": Fourier, "variance": Variance, "lesions": Lesions, "classify": Classification}
CNN, VIT = "resnet18", "vit_tiny_patch4_32"


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List the claims; they are put anew each time, since they cost nothing."""
    for analysis in (*KINDS, "similarity"):
        for path in (bench.out / f"claims_{analysis}.json", bench.out / f"{analysis}_claims.csv"):
            path.unlink(missing_ok=True)
        yield analysis, partial(put, bench, analysis)


def put(bench: Bench, analysis: str) -> dict[str, Any]:
    """Put the claims to what was kept of an analysis, write them as a table, and count the verdicts."""
    if analysis == "similarity":
        pairs = [(CNN, CNN), (VIT, VIT), (CNN, VIT)]
        claims = claims_of_similarity({p: Similarity.load(bench.out / f"similarity_{'_'.join(p)}") for p in pairs})
    else:
        there = [name for name in BLOCKS if (bench.out / f"{analysis}_{name}.npz").exists()]
        results = {name: KINDS[analysis].load(bench.out / f"{analysis}_{name}") for name in there}
        claims = find(ANALYSES[analysis].claims)(results)
    state_claims(claims, bench.out / f"{analysis}_claims")
    return {str(verdict): _count(claims, verdict) for verdict in (True, False, None)}


def _count(claims: list[Claim], verdict: bool | None) -> int:
    return sum(claim.holds is verdict for claim in claims)
