"""Which family a name belongs to, and which optimiser trains it."""

import subprocess
import sys

import pytest
import timm

import utilities.datasets
import utilities.zoo
from utilities.training.recipes import Recipe
from utilities.zoo import family, list_models
from utilities.zoo.families import FAMILIES, FAMILY_TITLES, usual_optimizer

# Every name of this package, by the beginning of it.
OWN = {
    ("cnn", "sgd"): "alexnet cbam_resnet plain_cnn preact_resnet resnet resnext se_resnet vgg wide_resnet",
    ("hybrid", "sgd"): "alternet lambda_resnet",
    ("vit", "adamw"): "vit_ swin_ pit_ mixer_",
}
# As named: a transformer, attention between convolutions, no attention in spite of the name, and what is not known.
LIBRARIES = {
    ("vit", "adamw"): "vit_base_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224 swin_tiny_patch4_window7_224 "
    "swinv2_tiny_window8_256 pit_s_224 mixer_b16_224 gmixer_24_224 convit_base crossvit_9_240 davit_tiny "
    "beit_base_patch16_224 cait_s24_224 eva02_tiny_patch14_224 pvt_v2_b0 xcit_nano_12_p8_224 hiera_tiny_224 "
    "twins_svt_small volo_d1_224 tnt_s_legacy_patch16_224 coat_tiny nest_tiny "
    "flexivit_small gcvit_tiny mvitv2_tiny naflexvit_base_patch16_gap samvit_base_patch16 test_vit vitamin_small_224",
    ("hybrid", "adamw"): "levit_128 levit_conv_128 mobilevit_s mobilevitv2_050 maxvit_tiny_tf_224 "
    "coatnet_0_rw_224 edgenext_small efficientformer_l1 visformer_tiny caformer_s18 "
    "maxxvit_rmlp_nano_rw_256 efficientvit_b0 fastvit_t8 nextvit_small shvit_s1 tiny_vit_5m_224",
    ("hybrid", "sgd"): "lambda_resnet26t botnet26t_256 sebotnet33ts_256 halonet26t "
    "eca_botnext26ts_256 lamhalobotnet50ts_256",
    ("cnn", "adamw"): "convmixer_768_32 repvit_m1",
    ("cnn", "sgd"): "resnet50 convnext_tiny efficientnet_b0 mobilenetv3_small_100 focalnet_tiny_srf poolformer_s12",
}


def old_rules(model):
    """Return the family and the optimiser that two rules gave before there was one table."""
    bare = model.rpartition("/")[2]
    words = ("vit", "deit", "pit", "swin", "mixer")
    kind = "hybrid" if bare.startswith(("alternet", "lambda")) else "vit" if bare.startswith(words) else "cnn"
    return kind, "adamw" if any(word in bare for word in words) else "sgd"


def test_every_model_of_this_package():
    left = set(list_models())
    for expected, beginnings in OWN.items():
        for name in [name for name in left if name.startswith(tuple(beginnings.split()))]:
            assert (family(name), usual_optimizer(name)) == expected, name
            left.remove(name)
    assert not left


@pytest.mark.parametrize("expected", LIBRARIES, ids="-".join)
def test_models_of_timm(expected):
    for name in LIBRARIES[expected].split():
        assert timm.is_model(name), name
        assert (family(f"timm/{name}"), usual_optimizer(f"timm/{name}")) == expected, name


# Both rules took these for CNNs: names without any word that the rules knew.
WITHOUT_A_WORD = (
    "aimv2 beit cait coat_ eva hiera nest_ pvt tnt twins volo xcit coatnet coatnext rcoatnet edgenext efficientformer "
    "visformer caformer swiftformer iformer lowformer "
    "test_coatnet botnet sebotnet halonet sehalonet haloregnet lamhalobotnet eca_bot eca_halo"
)


def test_only_names_that_the_rules_got_wrong_have_another_family():
    for name in [*list_models(), *list_models("timm/*"), *list_models("torchvision/*")]:
        if name.rpartition("/")[2].startswith(tuple(WITHOUT_A_WORD.split())):
            assert family(name) != "cnn", name
            continue
        kind, optimizer = old_rules(name)
        assert usual_optimizer(name) == optimizer, name
        if (kind, optimizer) != ("cnn", "adamw"):
            assert family(name) == kind, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mine.models:my_vit", ("vit", "adamw")),
        ("vit/models.py:make", ("cnn", "sgd")),
        ("models.py:lambda_vit", ("hybrid", "adamw")),
        ("models.py:gravity_net", ("cnn", "adamw")),
    ],
)
def test_functions_of_your_own(name, expected):
    assert (family(name), usual_optimizer(name)) == expected
    assert Recipe().resolved(name).optimizer == expected[1]


def test_each_row_is_of_a_known_family():
    assert {row.family for row in FAMILIES} == set(FAMILY_TITLES)
    assert {row.optimizer for row in FAMILIES} == {"sgd", "adamw"}


def test_the_table_does_not_wait_for_the_libraries():
    code = "import sys, utilities.zoo.families; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", [utilities.datasets, utilities.zoo], ids=lambda room: room.__name__)
def test_a_face_hands_on_what_it_lists_and_nothing_else(room):
    assert all(callable(getattr(room, name)) for name in room.__all__)
    assert not hasattr(room, "no_such_name")
