"""Two models in, a `Similarity` out: every pair of layers in one pass over the data.

`two_models` compares, `measures` gives second opinions, `torch_cka` keeps that package's calls, `head_windows` compares
the heads of a ViT with a CNN, `image_contributions` tells what each image adds, `nearness` which of two models a third
one is more like, `calibration` what chance reaches, `features` keeps a model's features on disk, `stitching` lets one
model go on from another's features.
"""

from utilities.compare.features.folder import open_features
from utilities.compare.features.saving import disk_needed, save_features
from utilities.compare.head_windows import compare_head_windows
from utilities.compare.image_shares import image_contributions
from utilities.compare.nearness import compare_similarities
from utilities.compare.stitching.stitches import stitch
from utilities.compare.torch_cka import CKA
from utilities.compare.two_models import compare
from utilities.results.similarity import Similarity, average, join

__all__ = [
    "CKA",
    "Similarity",
    "average",
    "compare",
    "compare_head_windows",
    "compare_similarities",
    "disk_needed",
    "image_contributions",
    "join",
    "open_features",
    "save_features",
    "stitch",
]
