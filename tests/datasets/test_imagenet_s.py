"""ImageNet-S in its true format, in little: labels, class numbers, and masks that go where the images go."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from utilities.datasets import load_dataset
from utilities.datasets.factory import SPLITS, make_loader
from utilities.datasets.folders import imagenet_classes
from utilities.datasets.imagenet_s import MERGED, class_numbers, read_ids

WNIDS, _ = imagenet_classes()
LISTS = {count: sorted(WNIDS)[1000 - count :] for count in (50, 300, 919)}
OTHER = 7  # a class of something else in the picture


def write_mask(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)).save(path)


def write_pair(root, part, wnid, name, number, size=(40, 30), box=(12, 5, 25, 20)):
    """A picture of grey 30 whose object, a rectangle, is 200, and its mask; size is (width, height)."""
    image = Image.new("RGB", size, (30, 30, 30))
    image.paste((200, 200, 200), box)
    (root / part / wnid).mkdir(parents=True, exist_ok=True)
    image.save(root / part / wnid / f"{name}.JPEG", format="PNG")  # without loss, whatever it is called
    left, top, right, bottom = box
    ids = np.zeros(size[::-1], dtype=np.int64)
    ids[0], ids[-1] = 1000, OTHER
    ids[top:bottom, left:right] = number
    write_mask(root / f"{part}-segmentation" / wnid / f"{name}.png", ids)


def write_set(root, count=50, classes=(0, 1, 20), listed=None, order=None, **options):
    """A set of some of its classes, and the list of all of them."""
    folder, order = root / f"ImageNetS{count}", order or LISTS[count]
    for place in classes:
        wnid = LISTS[count][place]
        number = order.index(wnid) + 1
        for i in range(3):
            write_pair(folder, "validation", wnid, f"ILSVRC2012_val_{place:05}{i:03}", number, **options)
        for i in range(10):
            write_pair(folder, "train-semi", wnid, f"{wnid}_{i}", number, **options)
    text = "\n".join(LISTS[count] if listed is None else listed)
    (folder / f"ImageNetS_categories_im{count}.txt").write_text(text + "\n")
    return folder


def test_labels_are_those_of_pretrained_heads(tmp_path):
    write_set(tmp_path)
    dataset = load_dataset("imagenet-s50", root=tmp_path)
    expected = [WNIDS.index(LISTS[50][place]) for place in (0, 1, 20)]
    assert dataset.targets.tolist() == sorted(3 * expected)
    assert (dataset.num_classes, dataset.image_size, dataset.masks) == (1000, 224, True)
    assert str(dataset) == "imagenet-s50 (test, 9 images)"


def test_splits(tmp_path):
    write_set(tmp_path)
    train, validation, test, both = (load_dataset("imagenet-s50", split, root=tmp_path) for split in SPLITS)
    assert (len(train), len(validation), len(test), len(both)) == (27, 3, 9, 30)
    assert sorted([*train.indices, *validation.indices]) == both.indices.tolist()
    assert len(set(validation.targets.tolist())) == 3
    some = load_dataset("imagenet-s50", n_images=6, root=tmp_path)
    assert np.unique(some.targets, return_counts=True)[1].tolist() == [2, 2, 2]


def test_class_numbers_above_255(tmp_path):
    """256 times an 8-bit green is 0: all classes would then have the numbers of the first 255."""
    folder = write_set(tmp_path, 919, classes=(299, 700))
    masks = sorted((folder / "validation-segmentation").rglob("*.png"))
    assert [set(np.unique(read_ids(masks[i]))) for i in (0, 3)] == [{0, OTHER, 1000, 300}, {0, OTHER, 1000, 701}]
    dataset = load_dataset("imagenet-s919", root=tmp_path, image_size=24)
    masks = dataset.batch(range(6))[2]
    assert (masks.mean((1, 2)) > 0.2).all()
    assert torch.equal(masks[0], masks[5])


@pytest.mark.parametrize("size", [(40, 30), (30, 47)])
def test_the_object_is_where_the_mask_says(tmp_path, size):
    """Resized by the shorter side and cropped at the centre, both of them."""
    write_set(tmp_path, classes=(3,), size=size)
    image, _, mask = load_dataset("imagenet-s50", root=tmp_path, mean=(0, 0, 0), std=(1, 1, 1))[0]
    assert mask.shape == (224, 224)
    fraction = (image[0] * 255 - 30) / 170
    # Grey levels of the image are rounded to 8 bits, of which 170 tell object and background apart.
    torch.testing.assert_close(fraction, mask, atol=1 / 170, rtol=0)
    assert 0.05 < float(mask.mean()) < 0.9


def test_a_transform_of_ones_own_moves_both(tmp_path):
    write_set(tmp_path, classes=(3,))
    steps = [transforms.Resize(36), transforms.CenterCrop(24), transforms.ToTensor()]
    plain, usual = transforms.Compose(steps), transforms.Compose([*steps, transforms.Normalize([0.4] * 3, [0.2] * 3)])
    image, _, mask = load_dataset("imagenet-s50", root=tmp_path, transform=usual)[0]
    fraction = ((image[0] * 0.2 + 0.4) * 255 - 30) / 170
    # Two roundings to 8 bits in each picture, of which 170 and 183 levels are used.
    torch.testing.assert_close(fraction, mask, atol=2 / 170, rtol=0)
    torch.testing.assert_close(load_dataset("imagenet-s50", root=tmp_path, transform=plain)[0][2], mask)


def test_timms_own_transform_moves_both(tmp_path):
    from timm.data import create_transform

    write_set(tmp_path, classes=(3,))
    transform = create_transform((3, 32, 32), crop_pct=0.875, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3)
    image, _, mask = load_dataset("imagenet-s50", root=tmp_path, transform=transform)[0]
    torch.testing.assert_close(((image[0] * 255 - 30) / 170).clamp(0, 1), mask, atol=0.02, rtol=0)


def test_other_classes_and_what_is_to_be_ignored_are_no_object(tmp_path):
    folder = write_set(tmp_path, classes=(3,))
    (path,) = (folder / "validation-segmentation" / LISTS[50][3]).glob("*000.png")
    ids = read_ids(path)
    ids[:] = 1000
    ids[:, :10], ids[:, 30:] = OTHER, 4
    write_mask(path, ids)
    mask = load_dataset("imagenet-s50", root=tmp_path, transform=transforms.ToTensor())[0][2]
    assert torch.equal(mask, torch.from_numpy(ids == 4).float())


def test_the_published_list_in_another_order(tmp_path):
    """The list of 919 is not sorted; what the masks hold decides."""
    shuffled = np.random.default_rng(0).permutation(LISTS[919]).tolist()
    for name, order in (("sorted", LISTS[919]), ("listed", shuffled)):
        folder = write_set(tmp_path / name, 919, classes=(2, 400, 900), listed=shuffled, order=order)
        masks = sorted((folder / "validation-segmentation").rglob("*.png"))
        numbers = class_numbers(folder, masks)
        assert numbers == {wnid: i for i, wnid in enumerate(order, 1)}
    write_set(tmp_path / "neither", 919, classes=(2, 400), listed=shuffled, order=LISTS[919][::-1])
    with pytest.raises(ValueError, match=r"of 2 masks in .* only 0 hold the number of their class"):
        load_dataset("imagenet-s919", root=tmp_path / "neither")


def test_complete_folders_need_no_list(tmp_path):
    folder = write_set(tmp_path, classes=range(50), size=(6, 6), box=(1, 1, 4, 4))
    (folder / "ImageNetS_categories_im50.txt").rename(tmp_path / "ImageNetS_categories_im50.txt")
    beside = load_dataset("imagenet-s50", root=tmp_path, image_size=6).batch([0, 149])[2]
    (tmp_path / "ImageNetS_categories_im50.txt").unlink()
    without = load_dataset("imagenet-s50", root=tmp_path, image_size=6).batch([0, 149])[2]
    assert torch.equal(beside, without)
    assert without.sum() > 0
    for part in ("validation", "train-semi"):
        (folder / part / LISTS[50][0]).rename(tmp_path / part)
    with pytest.raises(
        ValueError, match=r"49 class folders.* put data/categories/ImageNetS_categories_im50\.txt of http"
    ):
        load_dataset("imagenet-s50", root=tmp_path)


def test_images_of_merged_classes_have_their_own_label_or_are_left_out(tmp_path):
    folder = write_set(tmp_path, 919, classes=(2,))
    place = LISTS[919].index(MERGED[0])
    write_pair(folder, "validation", MERGED[0], "ILSVRC2012_val_00000001", place + 1)
    write_pair(folder, "train-semi", MERGED[0], "n04356056_12", place + 1)  # sunglasses, among sunglass
    assert len(load_dataset("imagenet-s919", root=tmp_path)) == 3
    both = load_dataset("imagenet-s919", "train+validation", root=tmp_path)
    assert both.targets.tolist()[-1] == WNIDS.index("n04356056")
    assert both[10][2].sum() > 0


def test_loaders_with_workers_and_augmentation(tmp_path):
    write_set(tmp_path, classes=(3, 4))
    dataset = load_dataset("imagenet-s50", "train", root=tmp_path, augment=True, image_size=16)
    images, _, masks = next(iter(make_loader(dataset, 6, workers=1)))
    assert (images.shape, masks.shape) == ((6, 3, 16, 16), (6, 16, 16))
    # Where all of a pixel is the object, it is bright, wherever the crop has moved it.
    bright = images[:, 0] * dataset.std[0] + dataset.mean[0]
    assert (bright[masks == 1] > 0.75).all()


@pytest.mark.parametrize("part", ["validation", "validation-segmentation"])
def test_missing_folders_are_named(tmp_path, part):
    folder = write_set(tmp_path)
    (folder / part).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("imagenet-s50", root=tmp_path)
    for text in (f"no class folders in {folder / part};", "train-semi-segmentation", "github.com/LUSSeg/ImageNet-S"):
        assert text in str(caught.value)
    assert len(load_dataset("imagenet-s50", "train", root=tmp_path)) == 27


def test_damaged_sets_are_refused(tmp_path):
    folder = write_set(tmp_path, classes=(3,))
    _, second, third = sorted((folder / "validation-segmentation" / LISTS[50][3]).iterdir())
    write_mask(second, np.full((5, 5), 4))
    with pytest.raises(ValueError, match=r"mask .*\.png is 5x5 pixels, its image 40x30"):
        load_dataset("imagenet-s50", root=tmp_path)[1]
    third.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 masks are missing, the first is .*002\.png"):
        load_dataset("imagenet-s50", root=tmp_path)
    third.write_bytes(b"not a picture")
    with pytest.raises(OSError, match=r"cannot read image .*002\.png"):
        load_dataset("imagenet-s50", root=tmp_path)[2]
    for image in (folder / "validation" / LISTS[50][3]).iterdir():
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"class folders in .*validation hold no image"):
        load_dataset("imagenet-s50", root=tmp_path)
    (folder / "validation" / "cats").mkdir()
    with pytest.raises(ValueError, match="cats is not one of ImageNet's"):
        load_dataset("imagenet-s50", root=tmp_path)


def test_without_masks_none_are_read(tmp_path):
    folder = write_set(tmp_path, classes=(3,))
    dataset = load_dataset("imagenet-s50", root=tmp_path, masks=False)
    for mask in (folder / "validation-segmentation").rglob("*.png"):
        mask.unlink()
    assert len(dataset[0]) == 2
