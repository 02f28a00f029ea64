"""Images for a proof: those of an `.npz` file (`data/images.py` says its forms), or smooth random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from outgrow.data.images import LabelledImages, model_input, read_images
from outgrow.errors import ConfigError
from outgrow.models.forward import ModelInputs
from outgrow.models.model import Model


def image_batches(
    model: Model, source: str | None, *, count: int, size: int
) -> tuple[list[ModelInputs], str]:
    """`count` batches of `size` images with labels, and a line that says where they come from.

    Raises ConfigError for a file that is no such archive, images that the model cannot take, and too few of them.
    """
    side = model.sizes["grid"] * model.sizes["patch"]
    classes = model.sizes.get("labels")  # None without a head, which asks for no labels
    shape = (count * size, model.sizes["channels"], side, side)
    if source is None:
        generator = torch.Generator().manual_seed(0)
        pixels = _smooth(shape, generator)
        labels = torch.randint(0, classes or 1, shape[:1], generator=generator)
        return _cut(pixels, labels, size), "smooth random images (no --data)"
    images = _taken(Path(source), shape, classes)
    return _cut(model_input(images.pixels), torch.from_numpy(images.labels), size), source


def _smooth(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise of a few pixels, enlarged: neighbouring patches look alike, as in pictures."""
    images, channels, side, _ = shape
    coarse = torch.randn(images, channels, max(side // 4, 1), max(side // 4, 1), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def _taken(path: Path, shape: tuple[int, ...], classes: int | None) -> LabelledImages:
    """The first images of a file, as many as asked for, once they are those that the model takes."""
    images = read_images(path)
    if images.pixels.shape[1:] != shape[1:]:
        raise ConfigError(
            f"the images in {path} are not those that the model takes",
            got=f"(images, channels, rows, columns) = {images.pixels.shape}",
            expected=f"(images, {', '.join(map(str, shape[1:]))})",
        )
    if len(images) < shape[0]:
        raise ConfigError(f"too few images in {path} for the proof", got=len(images), expected=shape[0])
    if classes is not None and images.labels.max() >= classes:
        raise ConfigError(
            f"a label in {path} is not a class of the model",
            got=int(images.labels.max()),
            expected=f"0 to {classes - 1}",
        )
    return images.part(0, shape[0])


def _cut(pixels: Tensor, labels: Tensor, size: int) -> list[ModelInputs]:
    return [
        {"pixel_values": images, "labels": classes}
        for images, classes in zip(torch.split(pixels, size), torch.split(labels, size), strict=True)
    ]
