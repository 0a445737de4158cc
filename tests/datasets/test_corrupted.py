import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from utilities.analysis.predictions.robustness_on_files import robustness_on_files
from utilities.datasets.cifar import CIFAR
from utilities.datasets.corrupted import load_corrupted, locate
from utilities.datasets.corruptions import CORRUPTIONS
from utilities.datasets.images import ImageDataset, Source

PER_SEVERITY = 6
WNIDS = ["n01440764", "n01443537"]


@pytest.fixture
def labels():
    return np.array([3, 1, 4, 1, 5, 9])


@pytest.fixture
def root(tmp_path, labels):
    """A CIFAR-10-C of six images, in whose pixels kind and severity and the image's number are written."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    for number, kind in enumerate(("fog", "snow")):
        images = np.zeros((5 * PER_SEVERITY, 32, 32, 3), np.uint8)
        images[..., 0] = np.arange(len(images))[:, None, None]  # the row in the file
        images[..., 1] = number
        np.save(folder / f"{kind}.npy", images)
    return tmp_path


@pytest.fixture
def imagenet_c(tmp_path):
    for kind, severity, wnid in [(k, s, w) for k in ("fog", "frost") for s in (1, 2) for w in WNIDS]:
        folder = tmp_path / "imagenet-c" / kind / str(severity) / wnid
        folder.mkdir(parents=True)
        for number in range(2):
            pixels = np.zeros((224, 224, 3), np.uint8)
            pixels[0] = pixels[-1] = pixels[:, 0] = pixels[:, -1] = 200  # a frame that no resizing and cropping keeps
            Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{number}.JPEG", quality=95)
    return tmp_path


def pixels_of(data):
    """Bring all images of a dataset back to 8 bits."""
    images, _ = data.batch(range(len(data)))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    return (255 * (images * std + mean)).round().long()


def test_severities_slice_disjointly_and_labels_repeat_five_times(root, labels):
    rows = []
    for severity in range(1, 6):
        data = load_corrupted("cifar10-c", "fog", severity, root=root)
        assert data.targets.tolist() == labels.tolist()
        rows += pixels_of(data)[:, 0, 5, 5].tolist()
    assert rows == list(range(30)), "each row of the file once, in order"


def test_kinds_are_files_and_images_are_ready_for_a_model(root):
    data = load_corrupted("cifar10-c", "snow", 2, root=root)
    image, label = data[1]
    assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 1)
    assert (pixels_of(data)[:, 1] == 1).all()
    assert (data.mean, data.std, data.num_classes) == (*CIFAR["cifar10"][1:], 10)
    assert str(data) == "cifar10-c (snow, severity 2, 6 images)"
    assert load_corrupted("cifar10-c", "snow", 2, root=root, image_size=48).batch([0])[0].shape == (1, 3, 48, 48)
    assert load_corrupted("cifar10-c", "snow", 2, root=root, mean=(0.5,), std=0.5).std == (0.5,) * 3
    with pytest.raises(ValueError, match="std=0 should be above 0"):
        load_corrupted("cifar10-c", "snow", 2, root=root, std=0)


def test_a_choice_of_images_is_the_same_for_all_sets(root):
    chosen = [load_corrupted("cifar10-c", "fog", severity, root=root, n_images=4, seed=1) for severity in (1, 4)]
    rows = [pixels_of(data)[:, 0, 0, 0] for data in chosen]
    assert (rows[1] - rows[0]).unique().tolist() == [3 * PER_SEVERITY]
    with pytest.raises(ValueError, match="from 1 to the 6"):
        load_corrupted("cifar10-c", "fog", 1, root=root, n_images=7)


def test_imagenet_c_is_neither_resized_nor_cut(imagenet_c):
    data = load_corrupted("imagenet-c", "fog", 2, root=imagenet_c)
    assert data.targets.tolist() == [0, 0, 1, 1]
    assert (data.num_classes, data.classes[0], data[0][0].shape) == (1000, "tench", (3, 224, 224))
    pixels = pixels_of(data)
    assert pixels[:, :, 0, :].min() > 150, "the frame is whole"  # JPEG blurs an edge of 0 to 200 by less than 50
    assert pixels[:, :, 20:200, 20:200].max() < 50


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("cifar10", "fog", 1), "known: cifar10-c"),
        (("cifar10-c", "mist", 1), "kinds should be some of"),
        (("cifar10-c", "fog", 0), "severities should be some of 1, 2, 3, 4, 5"),
        (("cifar10-c", "fog", 6), "severities"),
    ],
)
def test_unknown_sets_are_refused(root, arguments, word):
    with pytest.raises(ValueError, match=word):
        load_corrupted(*arguments, root=root)


def test_missing_files_say_what_to_fetch_and_where_to_put_it(root):
    with pytest.raises(FileNotFoundError, match=r"zenodo.org/records/2535967.* tar -xf CIFAR-10-C.tar -C") as error:
        load_corrupted("cifar10-c", "frost", 1, root=root)
    assert str(root / "CIFAR-10-C" / "frost.npy") in str(error.value)
    with pytest.raises(FileNotFoundError, match="md5 11f0ed0f1191edbf9fa23466ae6021d3"):
        locate("cifar100-c", "frost", 1, root)
    with pytest.raises(FileNotFoundError, match=r"blur.tar \(md5 2d8e81fdd8e07fef67b9334fa635e45c"):
        locate("imagenet-c", "glass_blur", 3, root)


@pytest.mark.parametrize(
    ("file", "array", "word"),
    [
        ("fog.npy", np.zeros((30, 32, 32, 3), np.float32), "uint8"),
        ("fog.npy", np.zeros((30, 3, 32, 32), np.uint8), "such as"),
        ("fog.npy", np.zeros((31, 32, 32, 3), np.uint8), "all five severities"),
        ("labels.npy", np.zeros(29, np.int64), "one for each"),
        ("labels.npy", np.full(30, 10), "from 0 to 9"),
    ],
)
def test_files_of_another_format_are_refused(root, file, array, word):
    np.save(root / "CIFAR-10-C" / file, array)
    with pytest.raises(ValueError, match=word):
        load_corrupted("cifar10-c", "fog", 1, root=root)


def test_damaged_files_and_foreign_classes_are_refused(root, imagenet_c):
    (root / "CIFAR-10-C" / "fog.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="damaged"):
        load_corrupted("cifar10-c", "fog", 1, root=root)
    (imagenet_c / "imagenet-c" / "fog" / "1" / "cats").mkdir()
    with pytest.raises(ValueError, match=r"not ImageNet's .*: cats"):
        load_corrupted("imagenet-c", "fog", 1, root=imagenet_c)


class RowReader(nn.Module):
    """Tells class 1 from the others by the row in the file that the first pixel holds."""

    def forward(self, images):
        mean, std = CIFAR["cifar10"][1][0], CIFAR["cifar10"][2][0]
        row = (255 * (images[:, 0, 0, 0] * std + mean)).round()
        late = row >= 3 * PER_SEVERITY  # severities 4 and 5 are all taken for class 0
        return nn.functional.one_hot((~late).long(), 10).float()


@pytest.fixture
def clean(labels):
    images = torch.zeros(PER_SEVERITY, 3, 32, 32, dtype=torch.uint8)
    mean, std = CIFAR["cifar10"][1:]
    source = Source(list("0123456789"), labels, np.arange(PER_SEVERITY), size=32, images=images, mean=mean, std=std)
    return ImageDataset(source, "cifar10", "test")


@pytest.mark.parametrize("batch_size", [2, 6])
def test_published_sets_are_evaluated_like_our_own(root, clean, batch_size):
    result = robustness_on_files(
        RowReader(), "cifar10-c", clean=clean, kinds=["fog", "snow"], root=root, batch_size=batch_size, device="cpu"
    )
    assert result.clean_accuracy == pytest.approx(1 / 3)  # two of six images are of class 1
    np.testing.assert_allclose(result.accuracy, [[1 / 3, 1 / 3, 1 / 3, 0, 0]] * 2)
    assert result.mean_accuracy()[0] == pytest.approx(0.2)
    assert result.provenance["dataset"] == "cifar10-c and cifar10 (test)"
    assert (result.n, result.provenance["corruptions"]) == (6, "read from files")


def test_sets_that_do_not_fit_the_clean_images_are_refused(root, clean):
    clean.targets[0] = 7
    clean._labels[0] = 7
    options = {"clean": clean, "kinds": ["fog"], "root": root, "device": "cpu"}
    with pytest.raises(ValueError, match="fog 1: 6 labels are not the 6 of the clean images"):
        robustness_on_files(RowReader(), "cifar10-c", **options)


def test_all_files_are_looked_for_before_the_work_starts(root, clean):
    class Untouched(nn.Module):
        def forward(self, images):
            raise AssertionError("the model was run")

    with pytest.raises(FileNotFoundError, match="gaussian_noise"):
        robustness_on_files(Untouched(), "cifar10-c", clean=clean, kinds=["fog", CORRUPTIONS[0]], root=root)
