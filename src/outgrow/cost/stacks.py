"""Which parameters work at the places of an encoder, and which at those of a decoder (`encoder` in an architecture file)."""

from __future__ import annotations

from dataclasses import replace

from outgrow.models.model import Model, Parameter


def in_encoder(model: Model, parameter: Parameter) -> bool:
    """Whether it is applied to what the encoder sees: the encoder's own, and keys and values of the attention to it."""
    spec = model.spec.encoder
    if spec is None:
        return False
    return parameter.name.startswith(spec.names) or spec.output in parameter.signature.axes("reads")


def encoder_of(model: Model) -> Model:
    """The same model with the parameters alone that work at the encoder's places."""
    return _with(model, {name for name, one in model.parameters.items() if in_encoder(model, one)})


def decoder_of(model: Model) -> Model:
    """The same model with all others."""
    return _with(model, model.parameters.keys() - encoder_of(model).parameters.keys())


def crossing_of(model: Model) -> Model:
    """The same model with the decoder's attention to the encoder alone: the modules of which a part reads the encoder."""
    spec = model.spec.encoder
    assert spec is not None
    reading = {
        _module(name) for name, one in model.parameters.items() if spec.output in one.signature.axes("reads")
    }
    return _with(model, {name for name in model.parameters if _module(name) in reading})


def _with(model: Model, names: set[str]) -> Model:
    return replace(model, parameters={name: one for name, one in model.parameters.items() if name in names})


def _module(name: str) -> str:
    """What holds the projection that a weight belongs to: `EncDecAttention` of `EncDecAttention.q.weight`."""
    return name.rsplit(".", 2)[0]
