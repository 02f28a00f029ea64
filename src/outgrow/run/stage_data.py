"""A stage's own batch and length: which they may be, and which part of the training order a step then reads.

    stream    windows of `longest` tokens, in the order of the seed
    a step    the next sequences · length tokens of it, cut into sequences of `length`

So what a step reads is a function of the tokens before it alone, whatever batches and lengths they were read in.
CompoundGrow (arXiv 2010.12562) lengthens sequences as it adds layers.
"""

from __future__ import annotations

from outgrow.files.section import Count, Section

MOST_AT_ONCE = 2**17
"""Sequences of one forward pass: more fit no device."""


class StageDataConfig(Section):
    """What a stage reads otherwise than the run's `data` says."""

    sequence_length: Count | None = None
    """Tokens that the model sees at once in this stage; validation keeps the run's `data.sequence_length`."""


class StageBatchConfig(Section):
    """What a stage changes of the run's `batch`."""

    sequences: Count | None = None
    """Sequences of one optimizer step in this stage."""
    micro_batch: Count | None = None
    """Sequences of one forward pass in this stage (default: the run's `batch.micro_batch`)."""


def check_batch(where: str, sequences: int, micro_batch: int | None) -> None:
    """Raise ValueError where micro-batches do not divide a stage's batch, or one of them is too large."""
    if micro_batch is not None and sequences % micro_batch:
        raise ValueError(
            f"{where}.batch: micro_batch {micro_batch} does not divide sequences {sequences}:"
            f" give {where}.batch.micro_batch a number that does"
        )
    if (micro_batch or sequences) > MOST_AT_ONCE:
        raise ValueError(
            f"{where}.batch: {micro_batch or sequences} sequences at once: give a micro_batch of at most {MOST_AT_ONCE}"
        )


def check_whole_steps(where: str, tokens: int, sequences: int, length: int) -> None:
    """Raise ValueError where a stage with a batch or length of its own does not end with a whole step.

    >>> check_whole_steps("stages[0]", 1000, 4, 64)
    Traceback (most recent call last):
    ...
    ValueError: stages[0].tokens 1,000 is no whole number of steps of 4 x 64 = 256 tokens: give 768 or 1,024
    """
    step = sequences * length
    if tokens % step:
        near = [count for count in (tokens // step * step, -(-tokens // step) * step) if count]
        raise ValueError(
            f"{where}.tokens {tokens:,} is no whole number of steps of {sequences} x {length} = {step:,} tokens:"
            f" give {' or '.join(f'{count:,}' for count in near)}"
        )


def check_order(where: str, sequences: int, length: int, longest: int) -> None:
    """Raise ValueError where a step would not read whole windows of the run's longest length.

    >>> check_order("stages[0]", 2, 64, 256)
    Traceback (most recent call last):
    ...
    ValueError: stages[0]: a step of 2 x 64 = 128 tokens is no whole number of the longest sequences of the run (256 tokens): \
give sequences a multiple of 4
    """
    if longest % length:
        raise ValueError(
            f"{where}: sequences of {length} tokens do not divide the longest ones of the run ({longest} tokens):"
            f" give a data.sequence_length that divides {longest}"
        )
    if sequences * length % longest:
        raise ValueError(
            f"{where}: a step of {sequences} x {length} = {sequences * length:,} tokens is no whole number of the longest"
            f" sequences of the run ({longest} tokens): give sequences a multiple of {longest // length}"
        )
