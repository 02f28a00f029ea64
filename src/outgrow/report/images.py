"""Images for a proof: those of an `.npz` file, or smooth random ones.

images.npz:  pixel_values  float (images, channels, rows, columns), as the model takes them;  labels  int (images,)
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from outgrow.architectures import Model
from outgrow.errors import ConfigError
from outgrow.proof import Batch

FORM = "an .npz with pixel_values, float (images, channels, rows, columns), and labels, int (images,)"


def image_batches(model: Model, source: str | None, *, count: int, size: int) -> tuple[list[Batch], str]:
    """`count` batches of `size` images with labels, and a line that says where they come from.

    Raises ConfigError for a file that is no such archive, images that the model cannot take, and too few of them.
    """
    side = model.sizes["grid"] * model.sizes["patch"]
    shape = (count * size, model.sizes["channels"], side, side)
    if source is None:
        generator = torch.Generator().manual_seed(0)
        pixels = _smooth(shape, generator)
        labels = torch.randint(0, model.sizes["labels"], shape[:1], generator=generator)
        return _cut(pixels, labels, size), "smooth random images (no --data)"
    pixels, labels = _read(Path(source), shape, model.sizes["labels"])
    return _cut(pixels[: shape[0]], labels[: shape[0]], size), source


def _smooth(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise of a few pixels, enlarged: neighbouring patches look alike, as in pictures."""
    images, channels, side, _ = shape
    coarse = torch.randn(images, channels, max(side // 4, 1), max(side // 4, 1), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def _read(path: Path, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} is a single array", expected=FORM)
        with archive:
            missing = sorted({"pixel_values", "labels"} - set(archive.files))
            if missing:
                raise ConfigError(f"{path} lacks {', '.join(missing)}", got=archive.files, expected=FORM)
            pixels, labels = archive["pixel_values"], archive["labels"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read as images", got=error, expected=FORM) from error
    if pixels.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"{path} holds other numbers", got=f"{pixels.dtype} pixels, {labels.dtype} labels", expected=FORM
        )
    if pixels.shape[1:] != shape[1:] or labels.shape != pixels.shape[:1]:
        raise ConfigError(
            f"the images in {path} are not those that the model takes",
            got=f"pixel_values {pixels.shape}, labels {labels.shape}",
            expected=f"pixel_values (images, {', '.join(map(str, shape[1:]))}), labels (images,)",
        )
    if len(pixels) < shape[0]:
        raise ConfigError(f"too few images in {path} for the proof", got=len(pixels), expected=shape[0])
    if not np.isfinite(pixels).all():
        raise ConfigError(f"some pixels in {path} are not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(
            f"a label in {path} is not a class of the model",
            got=f"{labels.min()} to {labels.max()}",
            expected=f"0 to {classes - 1}",
        )
    return torch.from_numpy(pixels.astype(np.float64)), torch.from_numpy(labels.astype(np.int64))


def _cut(pixels: Tensor, labels: Tensor, size: int) -> list[Batch]:
    return [
        {"pixel_values": images, "labels": classes}
        for images, classes in zip(torch.split(pixels, size), torch.split(labels, size), strict=True)
    ]
