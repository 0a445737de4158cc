import numpy as np
import pytest
import torch

from utilities.datasets.perturbations import FRAMES, PERTURBATIONS, USUAL, check_kinds, is_noise, perturb
from utilities.datasets.perturbed import KINDS, check_sequences, locate_sequences, read_sequences, read_video

MIDDLE = {"brightness": 15, "translate": 7, "rotate": 15, "tilt": 15, "scale": 15}  # frames that leave the image alone


def pictures(n=2, size=32):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_frames_have_the_published_form_and_begin_or_pass_through_the_image(kind):
    images = pictures()
    frames = list(perturb(images, kind))
    assert len(frames) == FRAMES["32"].get(kind, USUAL)
    assert all(frame.dtype == torch.uint8 and frame.shape == images.shape for frame in frames)
    assert any(not torch.equal(frames[0], frame) for frame in frames)
    if is_noise(kind) or kind == "zoom_blur":
        assert torch.equal(frames[0], images)
    if kind in MIDDLE:
        assert torch.equal(frames[MIDDLE[kind]], images)


def test_translation_moves_by_whole_pixels_and_black_comes_in():
    images = pictures()
    for i, frame in enumerate(perturb(images, "translate")):
        moved = torch.zeros_like(images)
        by = i - 7
        if by >= 0:
            moved[..., by:] = images[..., : 32 - by]
        else:
            moved[..., :by] = images[..., -by:]
        assert torch.equal(frame, moved)


def test_brightness_moves_grey_by_its_steps():
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    found = [int(frame.max()) for frame in perturb(grey, "brightness")]
    assert found == [int(100 + (i - 15) * 0.015 * 255 + 1 / 256) for i in range(31)]


def test_noise_has_its_strength_and_belongs_to_the_image():
    grey = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    _, *frames = perturb(grey, "gaussian_noise")
    spread = torch.stack(frames).float().std() / 255
    assert abs(spread - 0.02) < 0.0005  # 368,640 draws: 0.00003; rounding to whole levels adds 0.3 levels
    _, *shots = perturb(grey, "shot_noise")
    assert abs(torch.stack(shots).float().var() / (255 * 128 * 255 / 255 / 700) - 1) < 0.05
    assert not torch.equal(frames[0], frames[1])
    _, *late = perturb(grey[2:], "gaussian_noise", first=2)
    assert all(torch.equal(a[2:], b) for a, b in zip(frames, late, strict=True))
    _, *other = perturb(grey, "gaussian_noise", seed=1)
    assert not torch.equal(frames[0], other[0])


def test_larger_images_take_the_parameters_of_imagenet():
    assert len(list(perturb(pictures(1, 72), "translate"))) == 41


def test_a_tilt_leaves_the_centre_and_shrinks_what_is_farther():
    """Turned about both axes, one corner goes back and the opposite one comes nearer."""
    white = torch.full((1, 3, 33, 33), 255, dtype=torch.uint8)
    first, *_, last = perturb(white, "tilt")
    for frame in (first, last):
        assert frame[0, 0, 16, 16] == 255
        corners = [int(frame[0, 0, row, column]) for row, column in ((0, 0), (0, 32), (32, 0), (32, 32))]
        assert min(corners) == 0
        assert max(corners) == 255


@pytest.mark.parametrize(("kind", "word"), [("tlit", "close: tilt"), ("snow", "is not made here")])
def test_other_kinds_are_refused(kind, word):
    with pytest.raises(ValueError, match=word):
        perturb(pictures(), kind)
    with pytest.raises(TypeError, match="uint8"):
        perturb(pictures().float(), "tilt")


def saved(tmp_path, array, kind="tilt"):
    (tmp_path / "CIFAR-10-P").mkdir(exist_ok=True)
    np.save(tmp_path / "CIFAR-10-P" / f"{kind}.npy", array)
    return tmp_path


def test_arrays_of_the_published_format_are_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 32, 32, 3), dtype=np.uint8)
    root = saved(tmp_path, array)
    parts = list(read_sequences("cifar10-p", "tilt", root=root, batch_size=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat(parts).permute(0, 1, 3, 4, 2).numpy(), array)
    (some,) = read_sequences("cifar10-p", "tilt", root=root, n_images=2)
    np.testing.assert_array_equal(some.permute(0, 1, 3, 4, 2).numpy(), array[[0, 2]])
    with pytest.raises(ValueError, match="from 1 to the 5"):
        next(read_sequences("cifar10-p", "tilt", root=root, n_images=6))


@pytest.mark.parametrize("array", [np.zeros((5, 32, 32, 3), np.uint8), np.zeros((5, 4, 32, 32, 3))])
def test_other_arrays_are_refused(tmp_path, array):
    with pytest.raises(ValueError, match="should hold uint8 sequences"):
        next(read_sequences("cifar10-p", "tilt", root=saved(tmp_path, array)))


def test_missing_and_damaged_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tilt is missing: fetch the archives of ImageNet-P"):
        locate_sequences("imagenet-p", "tilt", tmp_path)
    (saved(tmp_path, np.zeros(1)) / "CIFAR-10-P" / "tilt.npy").write_bytes(b"cut")
    with pytest.raises(ValueError, match="damaged or no npy file"):
        next(read_sequences("cifar10-p", "tilt", root=tmp_path))
    (tmp_path / "imagenet-p" / "tilt").mkdir(parents=True)
    with pytest.raises(ValueError, match="no class folders"):
        next(read_sequences("imagenet-p", "tilt", root=tmp_path))
    assert all(len(kinds) == 10 for kinds in KINDS.values())


@pytest.mark.parametrize(
    ("kinds", "word"),
    [(["tilt", "tilt"], "each once; got"), ([], r"one or more, each once; got \[\]"), ("tilt", r"pass \['tilt'\]")],
)
def test_lists_of_kinds_are_checked_before_any_file(kinds, word, tmp_path):
    saved(tmp_path, np.zeros((5, 4, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=word):
        check_sequences("cifar10-p", kinds, tmp_path)
    with pytest.raises(ValueError, match=word):
        check_kinds(kinds)


def test_a_misspelt_kind_names_close_ones_and_no_empty_batch_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'tlit' is none of the ten of cifar10-p; close: tilt.* is missing"):
        check_sequences("cifar10-p", ["tlit"], tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        check_sequences("cifar10-p", None, tmp_path)
    assert "close" not in str(missing.value)
    saved(tmp_path, np.zeros((5, 4, 32, 32, 3), np.uint8), "gaussian_noise_2")
    assert check_sequences("cifar10-p", ["gaussian_noise_2"], tmp_path) == ["gaussian_noise_2"]
    with pytest.raises(ValueError, match="batch_size=0 should be 1 or more"):
        next(read_sequences("cifar10-p", "gaussian_noise_2", root=tmp_path, batch_size=0))


def test_videos_in_class_folders_are_read_in_order(tmp_path):
    av = pytest.importorskip("av")
    levels = {"n01440764/a.mp4": 40, "n01440764/b.mp4": 120, "n01443537/a.mp4": 200}
    for name, level in levels.items():
        path = tmp_path / "imagenet-p" / "tilt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=1)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for i in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level + 2 * i, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (found,) = read_sequences("imagenet-p", "tilt", root=tmp_path)
    assert found.shape == (3, 5, 3, 64, 64)
    expected = np.array(list(levels.values()))[:, None] + 2 * np.arange(5)
    assert np.abs(found.float().mean((2, 3, 4)).numpy() - expected).max() < 4  # a lossy codec
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_video(broken)
