"""Settings of the study's three sizes, and of the models whose settings differ from them.

``quick`` needs no network and runs in minutes on two cores; ``natural`` uses small natural images and models trained on
them in some ten epochs; ``paper`` uses the study's data sets and training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from utilities.training.recipes import RECIPES, Recipe
from utilities.zoo.families import family
from utilities.zoo.smoothing import SUFFIX


@dataclass(frozen=True)
class Profile:
    """Default settings of one size of the study.

    Attributes:
        recipe: How models are trained, the data set included.
        batch_size: Images in a batch of the comparison.
        n_images: Number of test images to compare on, or all where there are fewer; None uses all.
        image_size: Height and width in pixels for models that take any size; None is the data set's own.
        vit_recipe: How Vision Transformers are trained; None is as all models.
        required_accuracy: Accuracy that a CNN or hybrid must reach with these settings, and the one that a ViT or Swin
            must reach; or None.
    """

    recipe: Recipe
    batch_size: int = 256
    n_images: int | None = None
    required_accuracy: tuple[float, float] | None = None
    image_size: int | None = None
    vit_recipe: Recipe | None = None

    def recipe_of(self, model: str) -> Recipe:
        """Return the recipe of a model, by its family.

        Example:
            >>> [PROFILES["natural"].recipe_of(name).epochs for name in ("resnet18", "vit_tiny_patch4_32")]
            [10, 40]
        """
        return self.vit_recipe if self.vit_recipe is not None and family(model) == "vit" else self.recipe


# Number of images, in one batch, that batch norms are estimated on: for untrained models and after quick training.
# Averages over small batches do not normalise a Lambda ResNet. Its layers are quadratic, and small errors grow from
# block to block, up to NaN on a few images.
NORM_IMAGES = 512
PROFILES = {
    "quick": Profile(
        Recipe("digits", epochs=8, optimizer="adamw", warmup=2, norm_images=NORM_IMAGES),
        batch_size=180,
        required_accuracy=(0.95, 0.90),
    ),
    # Ten epochs bring a ViT nowhere near a CNN. After 40 it has passed 70% of CIFAR-10, which takes minutes on a GPU;
    # a ViT below some 65% has not learnt enough for conclusions.
    "natural": Profile(
        RECIPES["fast"], batch_size=250, n_images=2000, image_size=32, vit_recipe=replace(RECIPES["vit"], epochs=40)
    ),
    "paper": Profile(Recipe("cifar100", epochs=200, batch_size=256)),
}
# The study's CNN, hybrid and Vision Transformer, where all three are trained by one notebook.
CNN = {"quick": "resnet18", "natural": "resnet18", "paper": "resnet50"}
# The CNN with spatial smoothing, which is trained as the CNN is.
SMOOTH = {profile: f"{name}{SUFFIX}" for profile, name in CNN.items()}
HYBRID = {"quick": "alternet18", "natural": "alternet18", "paper": "alternet50"}
VIT = {"quick": "vit_tiny_patch2_16", "natural": "vit_tiny_patch4_32", "paper": "vit_ti_patch2_32"}
# Training settings on digits, by the beginning of the model's name, where they differ from the profile's. They were
# chosen by validation accuracy. Models that missed their required accuracy were trained for more epochs. That accuracy
# is measured on the test images, so quick accuracies show that a model has learnt but are not unbiased estimates. In so
# few steps, AdamW brings deep models further than the study's SGD, which suits long training on many images.
QUICK_TRAINING = {
    "resnet101": {"epochs": 9, "learning_rate": 1e-3, "batch_size": 32, "warmup": 1},
    "resnet18": {"epochs": 4, "learning_rate": 1e-3, "batch_size": 32, "warmup": 1},
    "resnet": {"epochs": 5, "learning_rate": 1e-3, "batch_size": 32, "warmup": 1},
    "wide_resnet": {"epochs": 4, "learning_rate": 1e-3, "batch_size": 32, "warmup": 1},
    "lambda_resnet50": {"epochs": 6, "learning_rate": 2e-3, "batch_size": 32},  # after 4, one image rules half of it
    "lambda": {"epochs": 4, "learning_rate": 2e-3, "batch_size": 32, "warmup": 1},
    "mixer": {"epochs": 12, "learning_rate": 2e-3, "batch_size": 32},
    "vit_tiny_patch4_16": {"epochs": 24, "learning_rate": 1e-3, "batch_size": 32},
    "vit_tiny_noskip": {"epochs": 24, "learning_rate": 1e-3, "batch_size": 32},  # at twice the rate it does not learn
    "vit_tiny_gap_patch4": {"epochs": 20, "learning_rate": 1e-3, "batch_size": 32},
    "vit_tiny_gap": {"epochs": 12, "learning_rate": 1e-3, "batch_size": 32},  # at twice the rate it takes 30
    "vit": {"epochs": 20, "learning_rate": 2e-3, "batch_size": 64},
    "plain": {"epochs": 8, "learning_rate": 3e-3, "batch_size": 32},
    "swin": {"epochs": 30, "learning_rate": 1e-3, "batch_size": 32},
    "alternet": {"epochs": 4, "learning_rate": 1e-3, "batch_size": 32, "warmup": 1},
}
# Training settings on `canvas`, by model name, where they differ from the profile's. Chosen by validation accuracy.
CANVAS_TRAINING = {
    "vit_tiny_patch4_24": {"epochs": 10, "learning_rate": 1e-3, "batch_size": 64},
    "resnet18": {"epochs": 5, "learning_rate": 1e-3, "batch_size": 32, "n_images": 2000, "warmup": 2},
    "lambda_resnet26": {"epochs": 4, "learning_rate": 1.5e-3, "batch_size": 16, "n_images": 1600, "warmup": 1},
}
# Training settings of the natural profile, by the beginning of the model's name, where they differ from its recipes.
# On all images, Muon was not tried on Lambda ResNets. With SGD, this learning rate was best by validation accuracy,
# and 0.4 diverged. Their layers need batch norms that normalise, see `NORM_IMAGES`.
_SGD = {"optimizer": "sgd", "learning_rate": 0.1, "nesterov": True, "batch_size": 512, "warmup": 2, "flips": "random"}
NATURAL_TRAINING = {"lambda": {**_SGD, "norm_images": NORM_IMAGES}}
# Models that notebooks follow through their training: it keeps them as they are at its start and after the warm-up.
FOLLOWED = {name: (CNN[name], HYBRID[name], VIT[name]) for name in ("quick", "natural")}
# Models that are meant to lose accuracy, by the beginning of their names: none is required of them.
ABLATED = ("vit_tiny_noskip",)
CANVAS_ACCURACY = (0.95, 0.88)  # required accuracies, as in `Profile.required_accuracy`
# Images for models with the weights of others. Small ones are enlarged, which captions state by the number of pixels.
REAL_IMAGES = {
    "quick": {"dataset": "photos", "n_images": 96},
    "natural": {"dataset": "cifar10", "n_images": 300, "image_size": 224},
    "paper": {"dataset": "imagenet", "n_images": None},
}
# The study's ViT takes images of 224 pixels.
LARGE_VIT = "vit_large_patch32_224"
_PHOTOS = {"dataset": "photos", "n_images": 48, "batch_size": 48}
LARGE_VIT_DATA = {
    "quick": _PHOTOS,
    "natural": _PHOTOS,
    "paper": {"dataset": "imagenet", "n_images": None, "batch_size": 64},
}
