"""Images and their classes from an `.npz` file (nothing in it is executed).

    images        uint8 (images, rows, columns[, channels])                                and labels  int (images,)
    pixel_values  float (images, channels, rows, columns), as the model takes them         and labels
    header payload offsets   image i is the JPEG file header + payload[offsets[i] : offsets[i + 1]]   and labels

Bytes become x / 127.5 - 1. The order of images, flips and crops are pure functions of (seed, step).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outgrow.data.needs import ImageNeeds
from outgrow.data.objectives import Batch
from outgrow.data.windows import Data, Stretch, places
from outgrow.errors import ConfigError
from outgrow.files.reading import check_regular, expanded
from outgrow.models.bounds import MOST_LABELS
from outgrow.run.config import DataConfig
from outgrow.store.assets import Asset

FORM = "an .npz with labels, and images (uint8), pixel_values (float) or header, payload and offsets (JPEG)"
_AUGMENT = 0x617567  # keeps the draws of flips and crops apart from those of the order


@dataclass(frozen=True)
class LabelledImages:
    """Images, uint8 or float32 (images, channels, rows, columns), and int64 labels (images,)."""

    pixels: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> LabelledImages:
        """Images `start` to `stop`."""
        return LabelledImages(self.pixels[start:stop], self.labels[start:stop])


@dataclass(frozen=True)
class ImageData(Data):
    """Images to train on and to validate on."""

    train: LabelledImages
    validation: LabelledImages
    classes: int
    flip_crop: bool
    description: str

    @property
    def needs(self) -> ImageNeeds:
        return ImageNeeds(self.train.pixels.shape[2], self.train.pixels.shape[1], self.classes)

    @property
    def files(self) -> tuple[Asset, ...]:
        return ()

    @property
    def summary(self) -> str:
        return f"{self.description}: {len(self.train):,} images, {len(self.validation):,} held out"

    @property
    def record(self) -> dict[str, Any]:
        return {
            "objective": "image",
            "description": self.description,
            "train_images": len(self.train),
            "validation_images": len(self.validation),
            "shape": list(self.train.pixels.shape[1:]),
            "classes": self.classes,
            "fingerprint": _fingerprint(self.train),
            "validation_fingerprint": _fingerprint(self.validation),
        }

    def batch(self, seed: int, step: int, sequences: int, *, stretch: Stretch | None = None) -> Batch:
        first = step * sequences if stretch is None else stretch.first
        chosen = places(seed, first, first + sequences, len(self.train))
        pixels = self.train.pixels[chosen]
        if self.flip_crop:
            pixels = flipped_and_cropped(pixels, np.random.Generator(np.random.PCG64([_AUGMENT, seed, step])))
        return model_input(pixels), torch.from_numpy(self.train.labels[chosen])

    def validation_batches(self, sequences: int, micro_batch: int) -> list[Batch]:
        count = min(sequences, len(self.validation))
        chosen = np.arange(count, dtype=np.int64) * len(self.validation) // count
        return [
            (model_input(self.validation.pixels[part]), torch.from_numpy(self.validation.labels[part]))
            for part in (chosen[start : start + micro_batch] for start in range(0, count, micro_batch))
        ]


def _fingerprint(images: LabelledImages) -> str:
    """Of some images, spread over all, and all labels: enough to notice another file."""
    some = np.ascontiguousarray(images.pixels[:: max(1, len(images) // 64)])
    return hashlib.sha256(some.tobytes() + images.labels.tobytes()).hexdigest()[:32]


def flipped_and_cropped(pixels: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Each image mirrored with chance 1/2, and moved by up to 1/8 of its side; what moves in is the mirrored border."""
    side = pixels.shape[2]
    border = max(1, side // 8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (border, border), (border, border)), mode="reflect")
    flips = random.random(len(pixels)) < 0.5
    moves = random.integers(2 * border + 1, size=(len(pixels), 2))
    made = np.empty_like(pixels)
    for place, (down, right) in enumerate(moves.tolist()):
        crop = padded[place, :, down : down + side, right : right + side]
        made[place] = crop[:, :, ::-1] if flips[place] else crop
    return made


def load_images(config: DataConfig) -> ImageData:
    """All images of a run, in memory; the validation images are another file's or the last ones."""
    assert config.images is not None, "RunConfig asks for images"
    images = of_classes(kept_images(expanded(config.images)), config.classes, config.images)
    description = config.images
    if config.classes is not None:
        description += f", classes {', '.join(map(str, config.classes))}"
    if config.validation_images is not None:
        train, validation = (
            images,
            of_classes(
                kept_images(expanded(config.validation_images)), config.classes, config.validation_images
            ),
        )
        description += f"; validation: {config.validation_images}"
        if train.pixels.shape[1:] != validation.pixels.shape[1:]:
            raise ConfigError(
                "validation images of another shape",
                got=validation.pixels.shape[1:],
                expected=train.pixels.shape[1:],
            )
    else:
        cut = len(images) - max(1, round(len(images) * config.validation_share))
        train, validation = images.part(0, cut), images.part(cut, len(images))
    if not len(train) or not len(validation):
        raise ConfigError(f"too few images: {description}", got=len(images), expected="at least 2")
    classes = 1 + int(max(train.labels.max(), validation.labels.max()))
    return ImageData(train, validation, classes, config.augment == "flip_crop", description)


def kept_images(path: Path) -> LabelledImages:
    """The same file is decoded once a process: a study opens it for every piece."""
    if not path.is_file():
        return read_images(path)  # which says what is wrong
    return _read(path, path.stat().st_mtime_ns)


def of_classes(images: LabelledImages, classes: Sequence[int] | None, where: str | Path) -> LabelledImages:
    """The images of some classes alone, the first of them numbered 0 and so on; ConfigError where one has no image.

    >>> four = LabelledImages(np.zeros((4, 1, 2, 2)), np.array([0, 5, 3, 5]))
    >>> of_classes(four, (5, 0), "four.npz").labels.tolist()
    [1, 0, 0]
    """
    if classes is None:
        return images
    absent = sorted(set(classes) - set(images.labels.tolist()))
    if absent:
        raise ConfigError(
            f"{where} has no image of class {', '.join(map(str, absent))}",
            expected=", ".join(map(str, np.unique(images.labels).tolist()[:20])),
        )
    number = np.full(1 + max(int(images.labels.max()), *classes), -1, dtype=np.int64)
    number[list(classes)] = np.arange(len(classes))
    labels = number[images.labels]
    return LabelledImages(images.pixels[labels >= 0], labels[labels >= 0])


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> LabelledImages:
    return read_images(path)


def read_images(path: Path) -> LabelledImages:
    """Read and check one file; ConfigError names what is wrong with it."""
    check_regular(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} is a single array", expected=FORM)
        with archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read as images", got=error, expected=FORM) from None
    if "labels" not in found:
        raise ConfigError(f"{path} lacks labels", got=sorted(found), expected=FORM)
    pixels: NDArray[Any]
    if "pixel_values" in found:
        pixels = _checked(found["pixel_values"], "f", path).astype(np.float32)
        if not np.isfinite(pixels).all():
            raise ConfigError(f"some pixels in {path} are not finite")
    elif "images" in found:
        grey = found["images"].ndim == 3
        pixels = _checked(found["images"][..., None] if grey else found["images"], "u", path)
        pixels = np.moveaxis(pixels, -1, 1)
    elif {"header", "payload", "offsets"} <= set(found):
        pixels = np.moveaxis(_decoded(found, path), -1, 1)
    else:
        raise ConfigError(f"{path} holds no images", got=sorted(found), expected=FORM)
    labels = found["labels"]
    if (
        labels.dtype.kind not in "iu"
        or labels.shape != pixels.shape[:1]
        or not len(labels)
        or labels.min() < 0
        or labels.max() >= MOST_LABELS
    ):
        raise ConfigError(
            f"the labels in {path} are not one class number per image",
            got=f"{labels.dtype} {labels.shape} for {len(pixels)} images",
            expected=f"whole numbers from 0, below {MOST_LABELS:,}",
        )
    if pixels.shape[2] != pixels.shape[3]:
        raise ConfigError(f"the images in {path} are not square", got=pixels.shape[2:])
    return LabelledImages(pixels, labels.astype(np.int64))


def _checked(pixels: NDArray[Any], kind: str, path: Path) -> NDArray[Any]:
    if pixels.ndim != 4 or pixels.dtype.kind != kind or (kind == "u" and pixels.dtype.itemsize != 1):
        raise ConfigError(
            f"the images in {path} have another form", got=f"{pixels.dtype} {pixels.shape}", expected=FORM
        )
    return pixels


def _decoded(found: dict[str, NDArray[Any]], path: Path) -> NDArray[np.uint8]:
    """JPEG files that share a header, decoded; (images, rows, columns, channels)."""
    from PIL import Image, UnidentifiedImageError  # matplotlib brings it

    header, payload, offsets = (found[name] for name in ("header", "payload", "offsets"))
    whole = header.dtype == payload.dtype == np.uint8 and offsets.dtype.kind in "iu" and offsets.ndim == 1
    if (
        not whole
        or len(offsets) < 2
        or (np.diff(offsets.astype(np.int64)) < 0).any()
        or offsets[-1] > len(payload)
    ):
        raise ConfigError(f"the offsets in {path} do not cut its payload into JPEG files", expected=FORM)
    start, images = header.tobytes(), []
    for place in range(len(offsets) - 1):
        file = io.BytesIO(start + payload[offsets[place] : offsets[place + 1]].tobytes())
        try:
            images.append(np.asarray(Image.open(file, formats=["JPEG"]).convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ConfigError(f"image {place} in {path} is no JPEG file", got=error) from None
        if images[-1].shape != images[0].shape:
            raise ConfigError(
                f"image {place} in {path} has another size", got=images[-1].shape, expected=images[0].shape
            )
    return np.stack(images)


def model_input(pixels: NDArray[Any]) -> torch.Tensor:
    """Pixels as the model takes them: floats stay as they are, bytes x become x / 127.5 - 1."""
    values = torch.from_numpy(np.ascontiguousarray(pixels))
    return values.float() / 127.5 - 1 if values.dtype == torch.uint8 else values
