"""Read how images are prepared for a Hugging Face model, from what ``save_pretrained`` wrote beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision import transforms
from torchvision.transforms import InterpolationMode

from utilities.zoo.huggingface import where_is
from utilities.zoo.huggingface_files import explaining, quietly, reach, read_config, read_json

_RESAMPLE = {
    0: InterpolationMode.NEAREST, 1: InterpolationMode.LANCZOS, 2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC, 4: InterpolationMode.BOX, 5: InterpolationMode.HAMMING,
}  # fmt: skip


def hf_preprocessing(name: str) -> tuple[tuple[int, int, int], tuple[float, ...] | None, tuple[float, ...] | None, Any]:
    """Read how images are prepared for a model: size, mean, deviation and transform.

    Args:
        name: ``hf/NAME`` or ``hf/FOLDER``.

    Returns:
        As `utilities.zoo.inputs.Preprocessing` has them; without a ``preprocessor_config.json`` the size alone is
        known, and the others are None.

    Raises:
        ValueError: If the file asks for something that is not known here.
        ConnectionError: If it cannot be fetched.
    """
    import transformers

    place = where_is(name)
    with quietly(), explaining(name, place):
        where = reach(place)
        config = read_config(name, place, **where)
        file = Path(place) / "preprocessor_config.json"
        if Path(place).is_dir():
            said = read_json(file) if file.is_file() else None
        else:
            said = transformers.AutoImageProcessor.from_pretrained(place, **where).to_dict()
    if said is None:
        own = getattr(config, "vision_config", config)
        height, width = _pair(getattr(own, "image_size", 224))
        return (getattr(own, "num_channels", 3), height, width), None, None, None
    return read_preprocessor(said, name)


def read_preprocessor(said: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Turn the content of a ``preprocessor_config.json`` into size, mean, deviation and transform.

    Example:
        >>> said = {"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": True, "image_mean": [0.5] * 3,
        ...         "image_std": [0.5] * 3, "resample": 3}
        >>> size, mean, std, transform = read_preprocessor(said, "hf/net")
        >>> size, mean
        ((3, 32, 32), (0.5, 0.5, 0.5))
    """
    size, steps = said.get("size") or said.get("crop_size"), []
    mode = _RESAMPLE.get(said.get("resample", 2), InterpolationMode.BILINEAR)
    if isinstance(size, dict) and "shortest_edge" in size:
        side = int(size["shortest_edge"])
        steps.append(transforms.Resize(side, mode))
        height, width = side, side
    else:
        height, width = _pair((size["height"], size["width"]) if isinstance(size, dict) else size)
        steps.append(transforms.Resize((height, width), mode))
    if not said.get("do_resize", True):
        steps.clear()
    if said.get("do_center_crop", False):
        crop = said["crop_size"]
        height, width = _pair((crop["height"], crop["width"]) if isinstance(crop, dict) else crop)
    steps.append(transforms.CenterCrop((height, width)))
    if height != width:
        raise ValueError(f"{name} takes images of {height}x{width} pixels; images are square here")
    plain = not said.get("do_normalize", True)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (tuple(said["image_mean"]), tuple(said["image_std"]))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return (3, height, width), mean, std, transforms.Compose(steps)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, (int, float)) else (int(size[0]), int(size[1]))
