"""What is run in one process and in two, to be compared: every analysis, on batches of which the last one is smaller.

As a program, started by torchrun, it runs all cases with shared batches and saves what each process has found:

    python -m torch.distributed.run --nproc_per_node=2 -m tests.analysis.shared_cases FOLDER
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.attention.attention_maps import attention_diversity
from utilities.analysis.attention.lambda_reach import lambda_reach
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.layer_probes import layer_probes
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.localisation import localisation
from utilities.analysis.blocks.receptive_field import receptive_field
from utilities.analysis.blocks.skip_ratios import skip_ratios
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.agreement import class_value_agreement
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.logit_attribution import logit_attribution
from utilities.analysis.class_embedding.perturbation import perturb, perturb_each_block
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.loss.layer_hessian import layer_hessians
from utilities.analysis.loss.readings import both_readings
from utilities.analysis.loss.spectral_density import spectral_density
from utilities.analysis.predictions.adversarial import adversarial
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.consistency import consistency
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.predictions.robustness import robustness
from utilities.analysis.predictions.robustness_on_files import robustness_on_sets
from utilities.analysis.predictions.uncertainty import with_dropout
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.hooks.calls.processes import process_group
from utilities.hooks.calls.seeding import seeded_torch
from utilities.hooks.calls.sharing import sharing_batches
from utilities.lambda_resnet import lambda_resnet26
from utilities.resnet import resnet18
from utilities.study.class_embedding import tuned_lens
from utilities.utils import evaluate
from utilities.zoo.vit import vit_tiny_patch4_24

RUN = {"device": "cpu", "progress": False}


# One analysis is not shared, and one leaves out a batch.
EXPECTED = (".*is not shared, and each process reads all images", "2 images in batches of fewer than 4 are left out")


def made(make, *args, **options):
    """Make a model of small random weights, the same in every process."""
    with seeded_torch(0):
        return make(*args, **options).eval()


def vit():
    return made(vit_tiny_patch4_24, num_classes=10, depth=2)


def resnet():
    return made(resnet18, 10)


def images(n=29, batch_size=6, split="test", masks=True, **options):
    """Serve labelled images with masks of their objects, in batches of 6, 6, 6, 6 and 5."""
    return make_loader(load_dataset("canvas", split, n_images=n, masks=masks), batch_size, **options)


def batches(**options):
    """Return the same as a list of batches."""
    return [tuple(batch) for batch in images(**options)]


def plain(**options):
    """Serve the same through torch's own loader."""
    return torch.utils.data.DataLoader(images().dataset, batch_size=6, **options)


def removal():
    model, loader = vit(), images()
    maps = {"gradient": importance(model, loader, **RUN)}
    return removal_curves(model, loader, maps, random=2, steps=4, **RUN)


def evaluated(loader):
    return {name: np.array(value) for name, value in evaluate(resnet(), loader, device="cpu").items()}


def landscape(folder, halves=()):
    """Measure the points that are left, after some halves of them."""
    options = {"points": 3, "report": None, "resume": folder / "landscape", **RUN}
    for half in halves:
        loss_landscape(vit(), images(12), part=(half, 2), **options)
    return loss_landscape(vit(), images(12), **options)


def on_sets():
    sets = {"kinds": ["fog"], "severities": [1], **RUN}
    return robustness_on_sets(resnet(), images(), lambda kind, severity: images(), **sets)


# Name of the analysis on the command line, and of a variant behind a space -> what is compared.
CASES = {
    "fourier": lambda _: fourier(vit(), images(), **RUN),
    "fourier list": lambda _: fourier(resnet(), batches(), **RUN),
    "fourier named": lambda _: fourier(resnet(), plain(), layers=["layer?.0"], **RUN),
    "variance": lambda _: feature_variance(vit(), images(), **RUN),
    "variance samples": lambda _: feature_variance(resnet(), images(), over="samples", **RUN),
    "variance augmented": lambda _: feature_variance(resnet(), images(masks=False, augment=_scale), **RUN),
    "variance fewer": lambda _: feature_variance(resnet(), batches(n=6), **RUN),
    "lesions": lambda _: lesions(vit(), images(), **RUN),
    "lesions mean": lambda _: lesions(resnet(), images(), ablation="mean", **RUN),
    "receptive_field": lambda _: receptive_field(vit(), images(), n_images=None, reduce_to=6, **RUN),
    "receptive_field first": lambda _: receptive_field(resnet(), images(), n_images=15, **RUN),
    "skip_ratios": lambda _: skip_ratios(vit(), images(), **RUN),
    "localisation": lambda _: localisation(vit(), images(), **RUN),
    "localisation blocks": lambda _: localisation(vit(), images(n=95, batch_size=5), most=2, **RUN),
    "localisation small": lambda _: localisation(vit(), batches(n=14), most=2, **RUN),
    "layer_probes": lambda _: layer_probes(vit(), images(split="train"), images(), shots=2, draws=2, alpha=1.0, **RUN),
    "layer_probes all": lambda _: layer_probes(vit(), images(n=60, split="train"), images(), shots=None, **RUN),
    "attention": lambda _: attention_diversity(vit(), images(), **RUN),
    "attention_distance": lambda _: attention_distance(vit(), images(), **RUN),
    "lambda_reach": lambda _: lambda_reach(made(lambda_resnet26, 10), images(n=7, batch_size=3), queries=8, **RUN),
    "classify": lambda _: classify(resnet(), images(), **RUN),
    "classify dropout": lambda _: classify(with_dropout(resnet(), 0.3), images(), passes=2, **RUN),
    "robustness": lambda _: robustness(resnet(), images(), kinds=["gaussian_noise"], severities=[1, 5], **RUN),
    "robustness files": lambda _: on_sets(),
    "noise_frequency": lambda _: noise_frequency(resnet(), images(), bands=4, **RUN),
    "adversarial": lambda _: adversarial(resnet(), images(), radii=[2, 8], steps=2, **RUN),
    "adversarial fgsm": lambda _: adversarial(resnet(), images(), attack="fgsm", norm="l2", radii=[32], **RUN),
    "consistency": lambda _: consistency(resnet(), images(), kinds=["gaussian_noise", "translate"], **RUN),
    "landscape": landscape,
    "landscape resumed": lambda folder: landscape(folder, halves=[1]),
    "hessian": lambda _: both_readings(
        vit(), images(), images(), k=1, batch_size=4, n_batches=3, full_images=8, full_sets=1, chunk=8, **RUN
    ),
    "spectral_density": lambda _: spectral_density(vit(), batches(n=12), n_vectors=3, steps=3, **RUN),
    "layer_hessian": lambda _: layer_hessians(vit(), batches(n=12), by="block", trace_probes=3, **RUN),
    "identifiability": lambda _: identifiability(vit(), images(), resamples=20, **RUN),
    "identifiability cnn": lambda _: identifiability(resnet(), images(), resamples=20, **RUN),
    "key_value": lambda _: key_value_agreement(vit(), images(), resamples=20, **RUN),
    "class_value": lambda _: class_value_agreement(vit()),
    "importance": lambda _: importance(vit(), images(), **RUN),
    "importance random": lambda _: importance(vit(), images(), method="random", **RUN),
    "removal": lambda _: removal(),
    "lens": lambda _: lens(vit(), images(), logits=True, **RUN),
    "logit_attribution": lambda _: logit_attribution(vit(), images(), **RUN),
    "logit_attribution cnn": lambda _: logit_attribution(resnet(), images(), target="prediction", **RUN),
    "tuned_lens": lambda _: tuned_lens(vit(), images(split="train"), images(), epochs=1, device="cpu"),
    "probes": lambda _: linear_probes(vit(), images(split="train"), images(), tokens="shared", resamples=20, **RUN),
    "perturb": lambda _: perturb(vit(), images(), resamples=20, **RUN),
    "perturb_each_block": lambda _: perturb_each_block(vit(), images(), "self_only", resamples=20, **RUN),
    "evaluate": lambda _: evaluated(images()),
    "evaluate shuffled": lambda _: evaluated(plain(shuffle=True, generator=torch.Generator())),
    "evaluate stream": lambda _: evaluated(iter(batches())),
}


def _scale(images, generator):
    return images * torch.rand(len(images), 1, 1, 1, generator=generator)


def arrays_of(found):
    """Return all numbers of a result, by name, and the facts that it states."""
    if isinstance(found, dict) and all(isinstance(value, np.ndarray) for value in found.values()):
        return found
    if isinstance(found, dict):
        return {f"{name} {key}": value for name, one in found.items() for key, value in arrays_of(one).items()}
    numbers = {name: value for name, value in vars(found).items() if isinstance(value, (np.ndarray, int, float))}
    facts = {f"provenance {name}": value for name, value in found.provenance.items() if isinstance(value, (int, float))}
    return {name: np.asarray(value) for name, value in (numbers | facts).items()}


def main(folder, *names):
    """Run all cases, or those named, with shared batches."""
    warnings.simplefilter("error")
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=message)
    torch.set_num_threads(1)
    with process_group("cpu"), sharing_batches() as processes:
        for name in names or CASES:
            found = arrays_of(CASES[name](folder))
            np.savez(folder / f"{name}_{processes.rank}.npz", **found)
            distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
