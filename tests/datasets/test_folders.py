"""Folders of images: depths and orientations against known pixels, names of parts, order of classes, what is said."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from utilities.datasets import factory as datasets
from utilities.datasets import load_dataset
from utilities.datasets.folders import find_folder
from utilities.datasets.picture import open_picture, picture_size

GREY = (np.arange(36, dtype=np.uint16).reshape(6, 6) * 7) % 256  # 8-bit levels
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def said_anew():
    datasets._warn_once.cache_clear()


def write(folder, count=4, size=(6, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")


def save_png16(path, pixels, kind):
    """A PNG of 16 bits with any number of channels, which PIL cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = (struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def save_16(path, name):
    pixels = GREY * 257  # white is 65535
    if name.endswith("pgm"):
        path.write_bytes(b"P5\n6 6\n65535\n" + pixels.astype(">u2").tobytes())
    elif name == "rgb.png":
        save_png16(path, np.stack([pixels] * 3, -1), 2)
    elif name == "big.tif":
        Image.frombytes("I;16B", (6, 6), pixels.astype(">u2").tobytes()).save(path)
    elif name == "float.tif":
        Image.fromarray((GREY / np.float32(255)).astype(np.float32)).save(path)
    else:
        Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("name", ["grey.png", "rgb.png", "grey.tif", "big.tif", "grey.pgm", "float.tif"])
def test_deep_pictures_equal_their_8_bit_twins(tmp_path, name):
    (tmp_path / "test" / "a").mkdir(parents=True)
    save_16(tmp_path / "test" / "a" / name, name)
    data = load_dataset(f"folder:{tmp_path}", mean=(0,) * 3, std=(1,) * 3)
    np.testing.assert_array_equal((data[0][0] * 255).round().numpy(), np.stack([GREY] * 3))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.float32), r"floating-point numbers from 0 to 245.*divide them.*8 or 16 bits"),
        (np.full((6, 6), np.nan, np.float32), "floating-point numbers from nan"),
        (GREY.astype(np.float32) / 255 - 0.5, "floating-point numbers from -0.5"),
        (GREY.astype(np.int32) * 1000, "32 bits, or signed ones, of which nobody says what is white"),
    ],
)
def test_pictures_whose_white_is_not_known_are_refused_by_name(tmp_path, pixels, message):
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "a" / "x.tif")
    with pytest.raises(OSError, match=rf"cannot read image .*x\.tif: it has .*{message}"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "CMYK"])
def test_other_modes_are_as_pil_converts_them(tmp_path, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    (path,) = tmp_path.iterdir()
    assert open_picture(path).tobytes() == Image.open(path).convert("RGB").tobytes()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation, deep):
    """Moving a shown picture's rows and columns by the standard's table gives what is stored."""
    shown = np.arange(24, dtype=np.uint16).reshape(4, 6) * 10
    sides = {1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.T, 6: np.rot90(shown)}
    sides |= {7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}
    stored = np.ascontiguousarray(sides[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored * 257) if deep else Image.fromarray(stored.astype(np.uint8))
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "x.png"))[..., 0], shown)
    assert picture_size(tmp_path / "x.png") == (6, 4)
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "x.png", upright=False))[..., 0], stored)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_tiffs_which_pil_turns_itself_are_turned_once(tmp_path, orientation, compression):
    shown = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    stored = {3: shown[::-1, ::-1], 5: shown.T, 6: np.rot90(shown), 8: np.rot90(shown, -1)}[orientation]
    options = {"compression": compression} if compression else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.tif", tiffinfo={274: orientation}, **options)
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "x.tif"))[..., 0], shown)
    assert picture_size(tmp_path / "x.tif") == (6, 4)


@pytest.mark.parametrize("deep", [False, True])
def test_tiffs_in_which_0_is_white(tmp_path, deep):
    Image.fromarray((255 - GREY) * 257 if deep else (255 - GREY).astype(np.uint8)).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
    content[place] = 0
    (tmp_path / "x.tif").write_bytes(content)
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "x.tif"))[..., 0], GREY)


def test_16_bits_that_are_not_filled_are_not_dark_in_silence(tmp_path):
    """Numbers of 8 or 12 bits in files of 16."""
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.fromarray(GREY).save(tmp_path / "test" / "a" / "x.png")
    with pytest.raises(ValueError, match="brightest of 1 is 245: they would be black; save them with 8 bits"):
        load_dataset(f"folder:{tmp_path}")
    Image.fromarray(GREY * 16).save(tmp_path / "test" / "a" / "x.png")
    with pytest.warns(UserWarning, match="brightest of 1 is 3920: they stay that dark; multiply them by 16"):
        load_dataset(f"folder:{tmp_path}")


def save_grey(folder, *pictures):
    folder.mkdir(parents=True)
    for k, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{k:02}.png")


def test_a_class_of_8_bits_in_files_of_16_is_named_beside_others_that_fill_them(tmp_path):
    save_grey(tmp_path / "test" / "a", *[GREY * 257] * 10)
    save_grey(tmp_path / "test" / "b", *[GREY] * 10)
    with pytest.warns(UserWarning, match=r"b/00.png has 16 bits.*largest number is 245.*multiply them by 257"):
        data = load_dataset(f"folder:{tmp_path}", "test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is not said once more for every picture
        assert all(data[k][0].isfinite().all() for k in range(len(data)))


def test_a_picture_of_8_bits_among_others_is_named_when_it_is_read_and_black_ones_are_not(tmp_path):
    pictures = [GREY * 257] * 40
    pictures[1], pictures[3] = GREY * 0, GREY  # neither among those that are looked at before
    save_grey(tmp_path / "test" / "a", *pictures)
    with pytest.warns(UserWarning, match=r"a/03.png has 16 bits"):
        data = load_dataset(f"folder:{tmp_path}", "test", mean=(0,) * 3, std=(1,) * 3)
    assert [bool(data[k][0].any()) for k in range(3)] == [True, False, True]


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_8_bits_in_16_are_not_black_in_silence(tmp_path, kind, channels):
    save_png16(tmp_path / "x.png", np.stack([GREY] * channels, -1), kind)
    with pytest.warns(UserWarning, match=r"x.png has 16 bits.*all its numbers are below 256"):
        assert not np.asarray(open_picture(tmp_path / "x.png")).any()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_every_name_of_the_validation_part(tmp_path, name, recwarn):
    for part, count in (("train", 8), (name, 3), ("test", 2)):
        write(tmp_path / part / "a", count)
    assert [len(load_dataset(f"folder:{tmp_path}", split)) for split in SPLITS] == [8, 3, 2]
    assert not recwarn.list


def test_a_link_keeps_its_own_name(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "Well-known set").symlink_to(tmp_path / "set")
    assert find_folder(str(tmp_path / "Well-known set")).name == "Well-known set"
    assert find_folder(str(tmp_path / "set" / "..")).name == tmp_path.name
    with pytest.raises(FileNotFoundError, match="folder: names no folder; write folder:PATH"):
        find_folder("")


def test_two_folders_for_one_part_are_refused(tmp_path):
    for part in ("train", "val", "validation"):
        write(tmp_path / part / "a")
    with pytest.raises(ValueError, match="has val and validation, two folders for one part"):
        load_dataset(f"folder:{tmp_path}")


def test_images_deeper_in_a_class_folder_are_found(tmp_path):
    write(tmp_path / "test" / "cat", 3)
    write(tmp_path / "test" / "cat" / "more", 2)
    write(tmp_path / "test" / "dog" / "images" / "all", 4)
    data = load_dataset(f"folder:{tmp_path}")
    assert np.bincount(data.targets).tolist() == [5, 4]


def test_folders_that_may_be_classes_are_refused(tmp_path):
    write(tmp_path / "test" / "animal" / "cat")
    write(tmp_path / "test" / "animal" / "dog")
    with pytest.raises(ValueError, match=r"animal holds folders with images \(cat, dog\), which may be classes"):
        load_dataset(f"folder:{tmp_path}")


def test_a_split_that_is_made_is_said_once_and_in_captions(tmp_path):
    write(tmp_path / "cat", 20)
    with pytest.warns(UserWarning, match="split here: 30 % of each class for testing") as said:
        parts = [load_dataset(f"folder:{tmp_path}", split) for split in SPLITS]
    assert len(said) == 1
    assert [part.part for part in parts] == ["train, split here", "validation, split here", "test, split here"]
    write(tmp_path / "b" / "train" / "cat", 20)
    write(tmp_path / "b" / "test" / "cat", 3)
    with pytest.warns(UserWarning, match="validation split off here: a tenth of each class of train"):
        load_dataset(f"folder:{tmp_path / 'b'}", "validation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(f"folder:{tmp_path / 'b'}").part == load_dataset("digits").part == "test"


def test_the_order_of_the_classes_gives_the_labels(tmp_path):
    for i, name in enumerate(("1", "2", "10")):
        write(tmp_path / "test" / name, i + 1)
    name, own = f"folder:{tmp_path}", tmp_path / "order.txt"
    own.write_text("10\n2\n\n7\n1\n")
    orders = {None: ["1", "10", "2"], "natural": ["1", "2", "10"], ("2", "1", "10"): ["2", "1", "10"]}
    for order, expected in {**orders, own: ["10", "2", "7", "1"], str(own): ["10", "2", "7", "1"]}.items():
        data = load_dataset(name, classes=order)
        assert data.classes == expected
        counts = np.bincount(data.targets, minlength=len(expected))
        assert dict(zip(expected, counts.tolist(), strict=True)) == {"1": 1, "2": 2, "10": 3} | {
            extra: 0 for extra in expected if extra == "7"
        }


def test_natural_order_is_timms(tmp_path):
    from timm.data.readers.reader_image_folder import find_images_and_targets

    names = ["1", "2", "10", "b10", "b9", "A2", "a10"]
    for name in names:
        write(tmp_path / "test" / name, 1)
    theirs = find_images_and_targets(str(tmp_path / "test"))[1]
    assert load_dataset(f"folder:{tmp_path}", classes="natural").classes == sorted(theirs, key=theirs.get)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["a"], "classes leaves out b of"),
        (["a", "b", "a"], "names a more than once"),
        ("absent.txt", r"absent\.txt is no file; give 'natural', names, or a text file"),
    ],
)
def test_orders_that_cannot_be_meant(tmp_path, order, message):
    for name in "ab":
        write(tmp_path / "test" / name, 1)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_dataset(f"folder:{tmp_path}", classes=order)
    with pytest.raises(ValueError, match="of a folder:PATH; those of digits have their own"):
        load_dataset("digits", classes=["a"])


def test_augmented_deep_pictures_stay_finite(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    save_16(tmp_path / "test" / "a" / "x.png", "grey.png")
    assert torch.isfinite(load_dataset(f"folder:{tmp_path}", augment=True, image_size=8)[0][0]).all()
