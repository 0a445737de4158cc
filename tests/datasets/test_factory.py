import hashlib
import pickle
import struct
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import utils as torchvision_utils

from utilities.cli.fetch import main
from utilities.datasets import bundled, load_dataset
from utilities.datasets import factory as datasets
from utilities.datasets.bundled import _pictures
from utilities.datasets.factory import SPLITS, Augmentation, make_loader


class Python2Pickler(pickle._Pickler):
    """Write bytes as Python 2 wrote its strings: the official archives were made so."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        short = len(obj) < 256
        self.write((b"U" + bytes([len(obj)]) if short else b"T" + struct.pack("<i", len(obj))) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar_pixels(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Five batches of 20 images and a test batch in the true format, with torchvision's check set to these files."""
    kind, folder = datasets.CIFAR["cifar10"][0], tmp_path / "cifar-10-batches-py"
    sums = {}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        labels = [j % 10 for j in range(20)]
        content = {b"batch_label": b"", b"labels": labels, b"data": cifar_pixels(20, i), b"filenames": [b"a.png"] * 20}
        sums[name] = write_pickle(folder / name, content)
    classes = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    meta = write_pickle(folder / "batches.meta", {b"label_names": classes, b"num_vis": 3072})
    monkeypatch.setattr(kind, "train_list", [[k, v] for k, v in sums.items() if k != "test_batch"])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    return tmp_path


@pytest.fixture
def cifar100_archive(tmp_path, monkeypatch):
    """The archive alone, as somebody would put it there by hand."""
    kind, build = datasets.CIFAR["cifar100"][0], tmp_path / "build" / "cifar-100-python"
    content = {b"fine_labels": list(range(100)), b"coarse_labels": [0] * 100, b"filenames": [b"a.png"] * 100}
    train = write_pickle(build / "train", {**content, b"data": cifar_pixels(100, 1)})
    test = write_pickle(build / "test", {**content, b"data": cifar_pixels(100, 2)})
    meta = write_pickle(build / "meta", {b"fine_label_names": [f"class{i}".encode() for i in range(100)]})
    root = tmp_path / "data"
    root.mkdir()
    archive = root / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(build, arcname="cifar-100-python")
    monkeypatch.setattr(kind, "train_list", [["train", train]])
    monkeypatch.setattr(kind, "test_list", [["test", test]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision_utils.urllib.request, "urlopen", refuse)


def write_images(folder, n, size=(12, 12), seed=0):
    """PNG files whose pixels are known; size is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i:03}.png")


def raw(dataset):
    """Undo the normalisation: the 0..255 pixels of every image."""
    images = torch.stack([image for image, _ in dataset])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (dataset.mean, dataset.std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


# ---------------------------------------------------------------- splits


def test_digits_splits_are_disjoint_exhaustive_and_stratified():
    train, validation, test, both = (load_dataset("digits", split) for split in SPLITS)
    assert (len(both), len(test)) == (1257, 540)
    assert len(train) + len(validation) + len(test) == 1797
    assert sorted([*train.indices, *validation.indices]) == both.indices.tolist()
    images = torch.cat([raw(part).flatten(1) for part in (train, validation, test)])
    assert len(images.unique(dim=0)) == 1797  # no image is in two splits
    shares = np.stack([np.bincount(d.targets, minlength=10) / len(d) for d in (train, validation, test)])
    assert np.ptp(shares, axis=0).max() < 0.01


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_the_seed_moves_no_image_to_another_split(name):
    for split in SPLITS:
        assert (load_dataset(name, split, seed=0).indices == load_dataset(name, split, seed=5).indices).all()


def test_digits_are_normalised_and_scaled():
    train = load_dataset("digits", "train")
    images, labels = train.batch(range(len(train)))
    assert images.shape == (len(train), 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.mean().abs() < 0.02
    assert (images.std() - 1).abs() < 0.02
    assert (int(raw(train).min()), int(raw(train).max())) == (0, 255)


@pytest.mark.parametrize("size", [8, 24, 224])
def test_any_image_size(size):
    dataset = load_dataset("digits", n_images=4, image_size=size)
    assert dataset[0][0].shape == (3, size, size)
    assert dataset.image_size == size


def test_own_normalisation_and_own_transform():
    plain = load_dataset("digits", n_images=3, mean=(0, 0, 0), std=(1, 1, 1), image_size=8)
    own = load_dataset("digits", n_images=3, transform=transforms.ToTensor())
    assert own.image_size == 8
    assert own.mean is None
    torch.testing.assert_close(plain[1][0], own[1][0])


def test_a_dataset_is_a_sequence():
    dataset = load_dataset("digits", n_images=20)
    assert str(dataset) == "digits (test, 20 images)"
    assert [label for _, label in dataset] == dataset.targets.tolist()
    assert (dataset[-1][0] == dataset[19][0]).all()
    with pytest.raises(IndexError, match="image 20 is not in digits"):
        dataset[20]
    images, labels = next(iter(torch.utils.data.DataLoader(dataset, batch_size=20)))
    assert (images == dataset.batch(range(20))[0]).all()
    assert (labels == torch.tensor(dataset.targets)).all()


# ---------------------------------------------------------------- subsets


@pytest.mark.parametrize("n", [1, 7, 100, 205, 540])
def test_a_subset_has_equal_classes(n):
    counts = np.bincount(load_dataset("digits", n_images=n).targets, minlength=10)
    assert counts.sum() == n
    available = np.bincount(load_dataset("digits").targets)
    assert ((counts >= counts.max() - 1) | (counts == available)).all()


def test_a_subset_follows_from_the_seed():
    first, again, other = (load_dataset("digits", n_images=50, seed=seed).indices for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert set(first) < set(load_dataset("digits", n_images=80, seed=0).indices)


# ---------------------------------------------------------------- photos


def test_photos_are_deterministic_and_balanced():
    test, again, other = (load_dataset("photos", seed=seed) for seed in (0, 0, 1))
    assert test.classes[:3] == ["china", "flower", "astronaut"]
    assert (len(test), test.num_classes) == (1280, 10)
    assert np.bincount(test.targets).tolist() == 10 * [128]
    for index in (3, 1277):
        assert test[index][0].shape == (3, 224, 224)
        assert (test[index][0] == again[index][0]).all()
        assert (test[index][0] != other[index][0]).any()
    assert np.ptp(np.bincount(load_dataset("photos", n_images=48).targets)) == 1


def test_photo_splits_are_separate_parts_of_the_picture():
    widths, last = np.array([picture.shape[1] for picture in _pictures()]), 0
    for split, n in (("train", 5120), ("validation", 640), ("test", 1280)):
        dataset = load_dataset("photos", split)
        table = dataset._open.args[0]
        assert len(dataset) == n
        left, right = table[:, 1] / widths[table[:, 0]], (table[:, 1] + table[:, 3]) / widths[table[:, 0]]
        assert (left >= last).all()
        last = right.max()
        for index in range(0, n, 97):  # no crop leaves its picture
            assert dataset._open(index).size == (table[index, 3],) * 2
            assert table[index, 2] + table[index, 3] <= _pictures()[table[index, 0]].shape[0]
    assert last <= 1
    assert len(load_dataset("photos", "train+validation")) == 5120 + 640


def test_the_first_two_photos_keep_the_crops_they_had_alone():
    """Their generator and their order are those of the set when it had two classes."""
    rng, count = np.random.default_rng([5, 2]), 256
    side = rng.integers(112, 192, count, endpoint=True)
    x = (448 + rng.random(count) * (192 - side)).astype(int)
    y = (rng.random(count) * (427 - side)).astype(int)
    before = np.stack([np.arange(count) % 2, x, y, side], axis=1)
    table = load_dataset("photos", "test", seed=5)._open.args[0]
    assert (table[:count] == before).all()
    assert (table[count:, 0] > 1).all()


def test_photos_say_which_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "_pictures", bundled._pictures.__wrapped__)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        load_dataset("photos")
    empty = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: empty)
    with pytest.raises(FileNotFoundError, match=r"needs astronaut\.png, chelsea\.png"):
        load_dataset("photos")


# ---------------------------------------------------------------- loaders and augmentation


def everything(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("shuffle", ["once", "every_epoch", "never"])
def test_the_order_of_a_loader(shuffle):
    dataset = load_dataset("digits")
    loader = make_loader(dataset, 100, shuffle=shuffle)
    first, second = everything(loader), everything(loader)
    assert loader.dataset is dataset
    assert (len(loader), loader.batch_size) == (6, 100)
    assert (first[0] == second[0]).all() == (shuffle != "every_epoch")
    assert (first[1] == torch.tensor(dataset.targets)).all() == (shuffle == "never")
    assert (first[1].sort().values == torch.tensor(dataset.targets).sort().values).all()
    again = make_loader(dataset, 100, shuffle=shuffle)
    again.epoch = 1
    assert (everything(again)[0] == second[0]).all()


def test_once_mixes_the_classes_of_a_sorted_set(tmp_path):
    for i, name in enumerate("abcd"):
        write_images(tmp_path / "test" / name, 16, seed=i)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert (np.diff(dataset.targets) >= 0).all()
    assert all(len(labels.unique()) > 1 for _, labels in make_loader(dataset, 16))
    other = everything(make_loader(dataset, 16, seed=1))[1]
    assert (other != everything(make_loader(dataset, 16))[1]).any()


def test_batches_do_not_depend_on_workers_or_the_global_generator():
    dataset = load_dataset("digits", "train", n_images=64, augment=True)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = make_loader(dataset, 16, shuffle="every_epoch", seed=3)
    two = make_loader(dataset, 16, shuffle="every_epoch", seed=3, workers=2)
    for _ in range(2):
        a, b = everything(one), everything(two)
        assert (a[0] == b[0]).all()
        assert (a[1] == b[1]).all()
    assert (torch.get_rng_state() == state).all()


def test_drop_last_and_foreign_datasets():
    assert len(make_loader(load_dataset("digits", n_images=50), 16, drop_last=True)) == 3
    foreign = torch.utils.data.TensorDataset(torch.arange(10.0), torch.arange(10))
    loader = make_loader(foreign, 4)
    assert [len(labels) for _, labels in loader] == [4, 4, 2]
    assert (everything(loader)[0] == everything(loader)[0]).all()


def test_crops_shift_a_point_by_at_most_the_padding():
    images = torch.zeros(4000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 255
    moved = Augmentation(pad=1, flip=False)(images, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    assert (moved.flatten(1).sum(1) == 255).all()  # the point never leaves the picture
    share = (moved[:, 0] > 0).double().mean(0)
    assert (share - 1 / 9).abs().max() < 0.02  # each of the nine places equally often


def test_crops_equal_slices_of_the_padded_image():
    images = torch.randn(30, 2, 5, 4)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    for image, crop in zip(padded, Augmentation(pad=2)(images, torch.Generator().manual_seed(1)), strict=True):
        slices = [image[:, y : y + 5, x : x + 4] for y in range(5) for x in range(5)]
        assert any(torch.equal(crop, s) or torch.equal(crop, s.flip(2)) for s in slices)


def test_flips_mirror_half_of_the_images():
    images = torch.arange(6.0).view(1, 1, 2, 3).expand(2000, -1, -1, -1)
    out = Augmentation(pad=0)(images, torch.Generator().manual_seed(0))
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (out == images).flatten(1).all(1)).all()
    assert abs(mirrored.double().mean() - 0.5) < 0.05


def test_which_augmentation_a_set_gets(tmp_path):
    write_images(tmp_path / "train" / "a", 10, size=(32, 32))
    assert load_dataset("digits", "train", augment=True).augmentation == Augmentation(pad=2, flip=False)
    assert load_dataset(f"folder:{tmp_path}", "train", augment=True).augmentation == Augmentation(4, flip=True)
    assert load_dataset("digits", "train").augmentation is None


def test_the_loader_takes_over_the_augmentation():
    plain = load_dataset("digits", "train", n_images=40)
    augmented = load_dataset("digits", "train", n_images=40, augment=True)
    reference = everything(make_loader(plain, 20))[0]
    assert (everything(make_loader(augmented, 20, augment=False))[0] == reference).all()
    loader = make_loader(augmented, 20)
    first, second = everything(loader)[0], everything(loader)[0]
    assert (first != reference).any()
    assert (first != second).any()  # drawn anew in each epoch
    assert (everything(make_loader(augmented, 20))[0] == first).all()
    expected = [
        Augmentation(2, flip=False)(batch, generator)
        for generator in [datasets_generator(loader)]
        for batch in reference.split(20)
    ]
    assert (torch.cat(expected) == first).all()  # once, not twice
    torch.manual_seed(0)
    assert (augmented[0][0] != augmented[0][0]).any()  # on its own, from the global generator


def datasets_generator(loader):
    from utilities.datasets.loaders import seeded_generator

    return seeded_generator(loader.seed, 2, 0)


# ---------------------------------------------------------------- CIFAR


def test_cifar10_reads_the_official_format(cifar10):
    test = load_dataset("cifar10", root=cifar10)
    assert test.classes[:2] == ["airplane", "automobile"]
    assert test.targets.tolist() == [j % 10 for j in range(20)]
    assert (raw(test).numpy() == cifar_pixels(20, 5).reshape(-1, 3, 32, 32)).all()  # red, green, blue planes
    assert load_dataset("cifar10", root=cifar10, image_size=48)[0][0].shape == (3, 48, 48)


def test_cifar_validation_is_the_last_tenth_of_training(cifar10):
    train, validation, _, both = (load_dataset("cifar10", split, root=cifar10) for split in SPLITS)
    assert train.indices.tolist() == list(range(90))
    assert validation.indices.tolist() == list(range(90, 100))
    assert (raw(validation).numpy() == cifar_pixels(20, 4)[10:].reshape(-1, 3, 32, 32)).all()
    assert len(both) == 100


def test_an_archive_put_there_by_hand_needs_no_network(cifar100_archive, offline):
    dataset = load_dataset("cifar100", root=cifar100_archive.parent, download=False)
    assert dataset.targets.tolist() == list(range(100))
    assert (dataset.num_classes, dataset.classes[99]) == (100, "class99")
    assert dataset.mean == (0.5071, 0.4865, 0.4409)


def test_a_damaged_archive_is_named_and_kept(cifar100_archive):
    cifar100_archive.write_bytes(cifar100_archive.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cifar-100-python\.tar\.gz is not the official .* md5"):
        load_dataset("cifar100", root=cifar100_archive.parent)
    assert cifar100_archive.exists()


def test_a_damaged_file_is_unpacked_again(cifar100_archive):
    load_dataset("cifar100", root=cifar100_archive.parent)
    (cifar100_archive.parent / "cifar-100-python" / "test").write_bytes(b"half")
    assert len(load_dataset("cifar100", root=cifar100_archive.parent)) == 100


def test_without_network_the_remedy_is_named(tmp_path, offline):
    with pytest.raises(ConnectionError) as caught:
        load_dataset("cifar100", root=tmp_path)
    for part in (
        f"python -m utilities fetch cifar100 --root {tmp_path}",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        str(tmp_path / "cifar-100-python.tar.gz"),
        "no route to host",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "cifar-100-python.tar.gz").exists()


def test_without_network_damaged_files_are_named(cifar10, offline):
    (cifar10 / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    with pytest.raises(ConnectionError, match="test_batch is damaged"):
        load_dataset("cifar10", root=cifar10)


def test_download_false_writes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py is missing"):
        load_dataset("cifar10", root=tmp_path / "absent", download=False)
    assert not (tmp_path / "absent").exists()


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(url, path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("cifar10", root=tmp_path)
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()


def test_the_command(cifar10, tmp_path, offline, capsys):
    main(["cifar10", "--root", str(cifar10)])
    assert capsys.readouterr().out == "cifar10 (test, 20 images): 10 classes, 32 px\n"
    with pytest.raises(SystemExit):
        main(["cifar100", "--root", str(tmp_path)])
    assert "cifar-100-python.tar.gz" in capsys.readouterr().err


# ---------------------------------------------------------------- ImageNet and folders


def test_imagenet_labels_are_those_of_pretrained_heads(tmp_path):
    for name in ("n01443537", "n01440764", "n15075141"):
        write_images(tmp_path / "imagenet" / "val" / name, 2, size=(60, 40))
    dataset = load_dataset("imagenet", root=tmp_path)
    assert dataset.targets.tolist() == [0, 0, 1, 1, 999, 999]  # although only three of the classes are there
    assert (dataset.num_classes, dataset.classes[0]) == (1000, "tench")
    assert dataset[0][0].shape == (3, 224, 224)


def test_imagenet_crops_as_the_field_does(tmp_path):
    write_images(tmp_path / "imagenet" / "val" / "n01440764", 1, size=(300, 280))
    image = Image.open(tmp_path / "imagenet" / "val" / "n01440764" / "000.png")
    usual = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(load_dataset("imagenet", root=tmp_path)[0][0], usual(image))


def test_imagenet_errors_name_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imagenet.test or .*imagenet.val for split 'test'"):
        load_dataset("imagenet", root=tmp_path)
    write_images(tmp_path / "imagenet" / "val" / "cats", 1)
    with pytest.raises(ValueError, match=r"ImageNet's .* differ by cats"):
        load_dataset("imagenet", root=tmp_path)


def test_a_tree_with_train_and_val(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "train" / name, 20, seed=i)
        write_images(tmp_path / "val" / name, 5, seed=10 + i)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    train, validation, test, both = (load_dataset(f"folder:{tmp_path}", split) for split in SPLITS)
    assert (len(train), len(validation), len(test), len(both)) == (36, 4, 10, 40)
    assert not set(train.indices) & set(validation.indices)
    assert np.bincount(validation.targets).tolist() == [2, 2]
    assert (test.classes, test.image_size) == (["cat", "dog"], 12)
    first = np.asarray(Image.open(tmp_path / "val" / "cat" / "000.png"))
    assert (raw(test)[0].permute(1, 2, 0).numpy() == first).all()


def test_a_tree_with_three_splits(tmp_path):
    for part, n in (("train", 8), ("val", 3), ("test", 2)):
        write_images(tmp_path / part / "cat", n)
    assert [len(load_dataset(f"folder:{tmp_path}", split)) for split in SPLITS] == [8, 3, 2, 11]


def test_class_folders_without_splits(tmp_path, monkeypatch):
    for name in ("cat", "dog", "train"):  # the third is a vehicle
        write_images(tmp_path / "zoo" / name, 20)
    monkeypatch.chdir(tmp_path)
    train, validation, test, both = (load_dataset("folder:zoo", split) for split in SPLITS)
    assert (len(both), len(test)) == (42, 18)
    assert sorted([*train.indices, *validation.indices, *test.indices]) == list(range(60))
    assert np.bincount(test.targets).tolist() == [6, 6, 6]
    assert str(test) == "folder:zoo (test, 18 images)"


def test_images_of_different_sizes(tmp_path):
    write_images(tmp_path / "test" / "a", 1, size=(40, 20))
    write_images(tmp_path / "test" / "b", 1, size=(20, 30))
    assert load_dataset(f"folder:{tmp_path}").image_size == 224
    small = load_dataset(f"folder:{tmp_path}", image_size=20)
    wide = np.asarray(Image.open(tmp_path / "test" / "a" / "000.png"))
    assert (raw(small)[0].permute(1, 2, 0).numpy() == wide[:, 10:30]).all()  # the centre, not squeezed


def test_small_images_are_decoded_once(tmp_path):
    write_images(tmp_path / "test" / "a", 4)
    dataset = load_dataset(f"folder:{tmp_path}")
    before = dataset[2][0]
    for path in (tmp_path / "test" / "a").iterdir():
        path.unlink()
    assert (dataset[2][0] == before).all()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar-10"}, "close: cifar10.*known: digits"),
        ({"name": "digit"}, "close: digits"),
        ({"split": "valid"}, "split 'valid' is not known; use one of train, validation, test"),
        ({"image_size": 0}, "image_size should be a whole number of at least 1, got 0"),
        ({"image_size": -3}, "got -3"),
        ({"n_images": 0}, "n_images should be a whole number of at least 1"),
        ({"n_images": 541}, r"n_images=541 is more than the 540 of digits \(test\)"),
        ({"seed": -1}, "seed"),
        ({"std": (1, 1, 0)}, "std above 0"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"transform": transforms.ToTensor(), "image_size": 8}, "leave those out"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**{"name": "digits", **arguments})


def test_a_transform_without_a_tensor_is_refused():
    with pytest.raises(TypeError, match="end it with ToTensor"):
        load_dataset("digits", transform=transforms.Resize(8))


def test_a_missing_folder_is_named_with_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("folder:absent")
    assert str(tmp_path / "absent") in str(caught.value)
    assert str(datasets.PROJECT_ROOT / "absent") in str(caught.value)
    assert "PATH/train/CLASS" in str(caught.value)


@pytest.mark.parametrize(("present", "split"), [("test", "train"), ("train", "test"), (None, "test")])
def test_a_missing_split_is_named(tmp_path, present, split):
    if present:
        write_images(tmp_path / present / "a", 2)
    with pytest.raises(FileNotFoundError, match=f"no class folders in .*{split}.*expected: PATH/train"):
        load_dataset(f"folder:{tmp_path}", split)


def test_unequal_classes_are_named(tmp_path):
    for part, names in (("train", ("cat", "dog")), ("test", ("cat", "cow"))):
        for name in names:
            write_images(tmp_path / part / name, 2)
    with pytest.raises(ValueError, match="differ by cow, dog"):
        load_dataset(f"folder:{tmp_path}")


def test_an_empty_class_is_named(tmp_path):
    write_images(tmp_path / "test" / "cat", 2)
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*dog has no image"):
        load_dataset(f"folder:{tmp_path}")


def test_a_folder_of_sets_is_not_taken_for_a_class(tmp_path):
    write_images(tmp_path / "jpeg" / "train" / "cat", 2)
    write_images(tmp_path / "jpeg" / "test" / "cat", 2)
    with pytest.raises(ValueError, match=r"is it a set itself \(folder:.*jpeg\)"):
        load_dataset(f"folder:{tmp_path}")


def test_tiny_imagenet_has_one_folder_more(tmp_path):
    write_images(tmp_path / "train" / "n01443537" / "images", 10)
    assert len(load_dataset(f"folder:{tmp_path}", "train")) == 9


def test_an_unreadable_image_is_named(tmp_path):
    write_images(tmp_path / "test" / "cat", 3)
    (tmp_path / "test" / "cat" / "001.png").write_bytes(b"not a picture")
    with pytest.raises(OSError, match=r"cannot read image .*001\.png"):
        load_dataset(f"folder:{tmp_path}")


def test_a_set_too_small_for_validation(tmp_path):
    write_images(tmp_path / "train" / "cat", 1)
    with pytest.raises(ValueError, match="validation split has no image"):
        load_dataset(f"folder:{tmp_path}", "validation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": True}, "use one of once, every_epoch, never"),
        ({"batch_size": 0}, "batch_size=0 should be 1 or more"),
        ({"batch_size": 11, "drop_last": True}, "no batch of 11 comes out of 10 images"),
        ({"workers": -1}, "workers"),
    ],
)
def test_loader_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(load_dataset("digits", n_images=10), **{"batch_size": 4, **options})


def test_augmentations_are_checked():
    with pytest.raises(TypeError, match=r"load_dataset\(\.\.\., augment=True\)"):
        make_loader(load_dataset("digits", n_images=10), 4, augment=True)
    with pytest.raises(ValueError, match="pad should be 0 or more"):
        Augmentation(-1)
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\)"):
        Augmentation(1)(torch.zeros(3, 8, 8))


def test_repeated_images_take_turns_and_keep_their_labels():
    few = load_dataset("digits", "train", n_images=12, augment=True)
    many = few.repeated(30)
    assert (len(few), len(many), many.augmentation) == (12, 30, few.augmentation)
    assert np.bincount(many.indices)[few.indices].tolist() == 6 * [3] + 6 * [2]
    few.augmentation = many.augmentation = None
    for place in (0, 11, 12, 29):
        assert (many[place][0] == few[place % 12][0]).all()
        assert many[place][1] == few[place % 12][1] == few.targets[place % 12]
    photos = load_dataset("photos", n_images=3, image_size=8)
    assert (photos.repeated(5)[4][0] == photos[1][0]).all()
    assert len(few.repeated(5)) == 5
