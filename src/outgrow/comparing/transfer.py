"""An image model fine-tuned on another set of labelled images: what it has learned beside its own classes.

The head is new, all weights learn, and images are neither mirrored nor moved: one setting for every arm.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outgrow.comparing.finetune import finetune, head_scores, new_head, over_seeds
from outgrow.comparing.study import TransferConfig
from outgrow.comparing.tasks import accuracy
from outgrow.data.images import LabelledImages, kept_images, model_input, of_classes
from outgrow.data.needs import ImageNeeds
from outgrow.data.objectives import Batch
from outgrow.engine.step import be_repeatable, choose_device
from outgrow.errors import ConfigError
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig


def transfer_files(asked: TransferConfig) -> tuple[Path, Path]:
    """Images to learn from, and to be asked about."""
    return expanded(asked.train), expanded(asked.test)


def read_transfer(asked: TransferConfig) -> tuple[LabelledImages, LabelledImages]:
    """Both parts, the first cut to `examples`; ConfigError where one is no file of images, or they do not fit each other."""
    train, test = (of_classes(kept_images(path), asked.classes, path) for path in transfer_files(asked))
    if train.pixels.shape[1:] != test.pixels.shape[1:] or test.labels.max() > train.labels.max():
        raise ConfigError(
            "downstream.transfer: the images to be asked about are not of the kind of those to learn from",
            got=_words(test),
            expected=_words(train),
        )
    return train.part(0, min(len(train), asked.examples or len(train))), test


def check_transfer(asked: TransferConfig, needs: ImageNeeds) -> None:
    """Before any training: the files are there, and their images fit the models of images like `needs`."""
    train, _ = read_transfer(asked)
    channels, side = train.pixels.shape[1:3]
    if (side, channels) != (needs.side, needs.channels):
        raise ConfigError(
            f"downstream.transfer.train: {asked.train} has images of another shape than the study's data",
            got=f"{side} x {side}, {channels} channels",
            expected=f"{needs.side} x {needs.side}, {needs.channels} channels",
        )


def transfer_scores(state: Path, run: RunConfig, asked: TransferConfig) -> dict[str, float]:
    """`transfer_accuracy` on the second file, mean over the seeds of the fine-tuning, and `..._spread` between them."""
    from transformers import AutoModelForImageClassification

    be_repeatable()
    device, (train, test) = choose_device(run), read_transfer(asked)
    classes, found = 1 + int(train.labels.max()), []
    order = np.arange(len(test))
    parts = [order[start : start + asked.batch] for start in range(0, len(order), asked.batch)]
    for seed in asked.seeds:
        model = new_head(AutoModelForImageClassification, state, classes, seed).to(device.name)
        finetune(model, partial(_batch, train), len(train), asked, device, seed, "transfer")
        scored = head_scores(model, [partial(_batch, test, part) for part in parts], device)
        answers = torch.cat([logits.argmax(-1) for logits, _ in scored]).numpy()
        found.append({"transfer_accuracy": accuracy(answers, test.labels)})
    return over_seeds(found)


def _batch(images: LabelledImages, chosen: NDArray[np.intp]) -> Batch:
    return model_input(images.pixels[chosen]), torch.from_numpy(images.labels[chosen])


def _words(images: LabelledImages) -> str:
    return f"{' x '.join(map(str, images.pixels.shape[1:]))}, {1 + int(images.labels.max())} classes"
