"""What data ask of a model: fields that a new model's config gets from them, and sizes that any model must have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outgrow.errors import ConfigError, near
from outgrow.models import timm_models
from outgrow.models.architecture import (
    load_architecture,
    longest_sequence,
    own_config,
    resolve,
    with_positions,
)


class Needs(ABC):
    """Of one run's data. Final: TextNeeds, ImageNeeds."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """Config fields of a new model where the run file does not give them."""

    @abstractmethod
    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ConfigError where the model of this config cannot take the data."""


@dataclass(frozen=True)
class TextNeeds(Needs):
    """A row for every token and a position for every place in a sequence."""

    vocab_size: int
    sequence_length: int
    separator: int | None
    pad: int | None = None
    mask: int | None = None
    """Padding and mask tokens, where the objective is `masked`; padding where it is `denoising`."""
    begins: int | None = None
    """The token that a decoder begins with."""

    def fields(self) -> dict[str, Any]:
        found = {
            "pad_token_id": self.pad,
            "mask_token_id": self.mask,
            "decoder_start_token_id": self.begins,
        }
        return {
            "vocab_size": self.vocab_size,
            "bos_token_id": self.separator,
            "eos_token_id": self.separator,
            **{name: token for name, token in found.items() if token is not None},
        }

    def check(self, config: Mapping[str, Any]) -> None:
        rows = own_config(config)["vocab_size"]
        if rows < self.vocab_size:
            raise ConfigError(
                "the model has fewer vocabulary rows than the tokenizer has tokens",
                got=rows,
                expected=f"at least {self.vocab_size}",
            )
        positions = longest_sequence(config)
        if positions is not None and positions < self.sequence_length:
            raise ConfigError(
                "data.sequence_length is longer than the model's positions",
                got=self.sequence_length,
                expected=f"at most {positions}",
                fix=f"shorten it, or give the model {with_positions(config, self.sequence_length)}",
            )


@dataclass(frozen=True)
class ImageNeeds(Needs):
    """Square images of a side and a number of channels, and their classes."""

    side: int
    channels: int
    classes: int

    def fields(self) -> dict[str, Any]:
        return {"image_size": self.side, "num_channels": self.channels, "num_labels": self.classes}

    def check(self, config: Mapping[str, Any]) -> None:
        wanted = {"image_size": self.side, "num_channels": self.channels}
        for name, value in wanted.items():
            if config[name] != value:
                raise ConfigError(
                    f"the images do not fit the model's {name}", got=value, expected=config[name]
                )
        labels = resolve(config).sizes["labels"]
        if labels < self.classes:
            raise ConfigError(
                "the model has fewer labels than the images have classes",
                got=labels,
                expected=f"at least {self.classes}",
            )


_NOT_SIZES = {"transformers_version", "architectures", "_name_or_path", "model_type", "dtype"}


def model_config(fields: dict[str, Any], needs: Needs) -> dict[str, Any]:
    """The full `config.json` content of a new model, from the `model` section of a run."""
    from transformers import CONFIG_MAPPING

    fields = dict(fields)
    if timm_models.is_timm(fields["model_type"]):
        made = timm_models.complete({**needs.fields(), **fields})
        needs.check(made)
        return made
    model_type = str(fields.pop("model_type"))
    spec = load_architecture(model_type)
    config_class = CONFIG_MAPPING[model_type]
    names = set(config_class().to_dict()) | set(config_class.attribute_map) | {"num_labels"}
    for name in fields:
        if name not in names:
            raise ConfigError(
                f"unknown key model.{name} for {model_type}", expected=near(name, names - _NOT_SIZES)
            )
    try:
        config = config_class(**{**needs.fields(), **fields})
    except Exception as error:  # transformers validates with errors of several kinds
        raise ConfigError(f"model: {model_type} does not accept these fields", got=str(error)) from None
    content: dict[str, Any] = {**config.to_dict(), "architectures": [spec.class_]}
    needs.check(content)
    return content
