"""A name, or anything else that is no torch module, in place of a model: one early TypeError from all analyses."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import utilities.analysis
import utilities.compare
from utilities.analysis.class_embedding.logit_attribution import components_of
from utilities.analysis.predictions.uncertainty import with_dropout
from utilities.zoo.smoothing import with_smoothing

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 2
PIXELS = "mean", "std"  # without which some analyses refuse the loader
GIVEN = {
    "train_loader": [(IMAGES[:3], LABELS[:3])], "test_loader": [(IMAGES[3:], LABELS[3:])], "loader": [(IMAGES, LABELS)],
    "images": IMAGES, "maps": {}, "tuned": None, "kind": "mlp", "mean": (0.0,) * 3, "std": (1.0,) * 3,
}  # fmt: skip
ROOMS = utilities.analysis, utilities.compare
OTHERS = {  # take what is no module as well, or another argument tells first
    "compare": "takes the folder of kept features",
    "compare_similarities": "takes three",
    "image_contributions": "takes pairs of layers",
    "robustness_on_files": "reads files",
    "robustness_on_sets": "reads files",
    "consistency_on_files": "reads files",
    "check_targets": "is given what an analysis has checked",
}


def faces():
    """List the public analyses: functions of one model or two, and a loader, images, or a folder to write to."""
    for room in ROOMS:
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            for name, found in vars(importlib.import_module(module.name)).items():
                own = inspect.isfunction(found) and found.__module__ == module.name and not name.startswith("_")
                if not own or name in OTHERS:
                    continue
                first, *others = inspect.signature(found).parameters
                reads = {"loader", "train_loader", "loader1"} & set(others)
                if first in ("model", "model1") and reads and not inspect.isgeneratorfunction(inspect.unwrap(found)):
                    yield pytest.param(found, id=name)


@pytest.mark.parametrize("analysis", list(faces()))
def test_every_analysis_refuses_a_name_in_place_of_a_model(analysis, tmp_path):
    given = {}
    for name, one in inspect.signature(analysis).parameters.items():
        if name in ("model", "model1", "model2"):
            given[name] = "resnet18"
        elif name == "path" and one.default is one.empty:
            given[name] = tmp_path / "kept"
        elif one.kind is not one.VAR_KEYWORD and (one.default is one.empty or name in PIXELS):
            given[name] = GIVEN[name]
    with pytest.raises(TypeError, match=r"a model should be a torch module, not a str; zoo\.create_model makes some"):
        analysis(**given)


@pytest.mark.parametrize("make", [with_smoothing, lambda model: with_dropout(model, 0.5), components_of])
def test_what_changes_or_reads_a_model_alone_refuses_it_too(make):
    with pytest.raises(TypeError, match="a model should be a torch module, not a str"):
        make("resnet18")


def test_the_list_holds_the_analyses():
    assert {one.id for one in faces()} >= {"calibrate", "save_features", "logit_attribution", "stitch", "fourier"}
