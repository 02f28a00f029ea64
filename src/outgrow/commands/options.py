"""What every command can be asked: one value a command, whose fields are its arguments and options with their help.

The command line is made from these (`cli.py`), and so are the pages on it. Whether a word is one of a list is checked
here; what other words mean, where they are used, before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from outgrow.errors import ConfigError
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions, LesaOptions

Folder = Annotated[
    Path, typer.Argument(help="A model folder, Trainer checkpoint or outgrow state.", show_default=False)
]
Destination = Annotated[
    Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)
]
Sizes = Annotated[
    list[str],
    typer.Option("--to", help="A new size, as hidden_size=768. Repeat for each.", show_default=False),
]
FormatChoice = Annotated[
    Literal["native", "trainer", "hub", "dcp", "accelerate", "torchtitan", "olmo-core"],
    typer.Option(help="What to write."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing state, in one step.")]
NonFinite = Annotated[bool, typer.Option("--allow-nonfinite", help="Accept NaN and Inf in the source.")]
Dry = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and what it costs; touch nothing.")
]
Picture = Annotated[Path | None, typer.Option("--plot", help="Write a picture here (.png or .svg).")]
MomentsChoice = Literal["transport", "cautious", "keep_zero", "copy", "parts", "reset"]
Precision = Literal["float64", "float32", "bfloat16"]
Processor = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Call:
    """What a command was asked. Raises ConfigError where a field of choices holds another word.

    >>> VerifyCall(Path("small"), Path("large"), dtype="half")
    Traceback (most recent call last):
    outgrow.errors.ConfigError: dtype of this call is none of its choices
      got:      half
      expected: float64, float32, bfloat16
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            words, value = _choices(kind), getattr(self, name)
            if words and value is not None and value not in words:
                raise ConfigError(
                    f"{name} of this call is none of its choices", got=value, expected=", ".join(words)
                )


def _choices(kind: Any) -> tuple[str, ...]:
    """The words of a `Literal`, or of one among other types; none where there is none."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for one in get_args(kind) for word in _choices(one))


@dataclass(frozen=True)
class InspectCall(Call):
    """Show sizes and axes of a state, what can grow, and when the function is kept.

    Example: [bold]outgrow inspect small/[/]
    """

    checkpoint: Folder
    allow_nonfinite: NonFinite = False


@dataclass(frozen=True)
class GrowCall(Call):
    """Grow a state from file to file, streaming: weights, moments, steps and records.

    Example: [bold]outgrow grow small/ large/ --to hidden_size=768 --to num_hidden_layers=12[/]
    """

    checkpoint: Folder
    out: Destination
    to: Sizes = field(default_factory=list)
    width: Annotated[
        str | None,
        typer.Option(
            help="Width operator: see `outgrow operators`. Default: pad, or isometric behind a post-norm."
        ),
    ] = None
    depth: Annotated[
        str | None, typer.Option(help="Depth operator: see `outgrow operators`. Default: stack.")
    ] = None
    experts: Annotated[
        str | None, typer.Option(help="Operator on experts: see `outgrow operators`. Default: copy.")
    ] = None
    moments: Annotated[
        MomentsChoice | None,
        typer.Option(help="What becomes of Adam's moments. Default: transport; with --operator reset."),
    ] = None
    noise: Annotated[
        float | None, typer.Option(help="Noise that no reader sees, in initializer ranges. Default: 0.1.")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of noise and fresh rows. Default: 0.")] = None
    operator: Annotated[
        Path | None,
        typer.Option(help="A fitted operator's folder (see learn); it has its own sizes, width and depth."),
    ] = None
    as_type: Annotated[
        str | None,
        typer.Option(
            "--as", help="Describe it as this model type first (see convert), as mixtral.", show_default=False
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="New peak of the learning rate; a Trainer that resumes takes it from the checkpoint."
        ),
    ] = None
    reset_schedule: Annotated[
        bool, typer.Option("--reset-schedule", help="Schedule, steps and data begin anew; moments stay.")
    ] = False
    format: FormatChoice = "native"
    overwrite: Overwrite = False
    list_new: Annotated[
        bool,
        typer.Option(
            "--list-new", help="Only name the parameters of new layers, one per line; write nothing."
        ),
    ] = False
    for_ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            help="With --dry-run: what each of so many processes would read, write and hold; needs a config.json alone.",
        ),
    ] = None
    dry_run: Dry = False
    allow_nonfinite: NonFinite = False


@dataclass(frozen=True)
class ConvertCall(Call):
    """Describe a state as another model type, exactly: a dense model as a mixture with one expert.

    Example: [bold]outgrow convert dense/ moe/ --as mixtral[/]
    """

    checkpoint: Folder
    out: Destination
    as_type: Annotated[
        str, typer.Option("--as", help="The model type to become, as mixtral.", show_default=False)
    ]
    moments: Annotated[
        Literal["transport", "reset"], typer.Option(help="What becomes of the optimizer's moments.")
    ] = "transport"
    seed: Annotated[int, typer.Option(min=0, help="Seed of new tensors, as a router.")] = 0
    format: FormatChoice = "native"
    overwrite: Overwrite = False
    dry_run: Dry = False
    allow_nonfinite: NonFinite = False


@dataclass(frozen=True)
class ExportCall(Call):
    """Write a state in another format, streaming: for transformers, for Trainer, or sharded for another trainer.

    Example: [bold]outgrow export run/step-500 titan/step-500 --format torchtitan[/]
    """

    checkpoint: Folder
    out: Destination
    format: FormatChoice = "native"
    overwrite: Overwrite = False
    allow_nonfinite: NonFinite = False


@dataclass(frozen=True)
class OperatorsCall(Call):
    """List the growth operators, or show one: what it does to each tensor, what is kept, its options and paper.

    Example: [bold]outgrow operators lemon[/]
    """

    name: Annotated[str, typer.Argument(help="Show this one in full.", show_default=False)] = ""


@dataclass(frozen=True)
class ArchitecturesCall(Call):
    """List the model types that can grow, or check a file that describes one.

    Example: [bold]outgrow architectures check my_model.yaml[/]
    """


@dataclass(frozen=True)
class CheckCall(Call):
    """Build tiny random models of a type, permute their units, grow them, and say what holds. Exit 1 where a promise fails.

    Example: [bold]outgrow architectures check my_model.yaml[/]
    """

    file: Annotated[
        str, typer.Argument(help="A file, as my_model.yaml, or a known model type.", show_default=False)
    ]


@dataclass(frozen=True)
class LearnCall(Call):
    """Fit a learned operator to a source and its data, and grow by it.

    Example: [bold]outgrow learn small/ large/ --to hidden_size=768 --data text.xz --save-operator op/[/]
    """

    checkpoint: Folder
    out: Destination
    to: Sizes
    data: Annotated[
        str | None,
        typer.Option(
            help="Text to fit on (a file, glob, folder or stdlib), or images (.npz); none for lesa."
        ),
    ] = None
    method: Annotated[Literal["ligo", "mango", "lesa"], typer.Option(help="What is learned.")] = "ligo"
    steps: Annotated[
        int | None,
        typer.Option(help=f"Steps of the fit. Default: {LearnOptions.steps}; lesa {LesaOptions.steps}."),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the fit. Default: 3e-4 from an exact start, else 1e-3.")
    ] = None
    warmup: Annotated[int | None, typer.Option(help="Steps of its warm-up. Default: a tenth.")] = None
    start: Annotated[
        str | None,
        typer.Option(
            help="Where the fit begins: exact (default), published, or WIDTH,DEPTH as selection,stack."
        ),
    ] = None
    width: Annotated[
        str | None,
        typer.Option(
            help=f"Width operator of an exact start, or of lesa's layers. Default: {LearnOptions.width}."
        ),
    ] = None
    depth: Annotated[
        str | None, typer.Option(help=f"Depth operator of an exact start. Default: {LearnOptions.depth}.")
    ] = None
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Rank of Mango's ring (default {LearnOptions.rank}), or singular vectors of lesa ({LesaOptions.rank}).",
        ),
    ] = None
    hidden: Annotated[
        int | None,
        typer.Option(min=1, help=f"Hidden units of lesa's network. Default: {LesaOptions.hidden}."),
    ] = None
    sequences: Annotated[
        int | None,
        typer.Option(min=1, max=65_536, help=f"Sequences, or images, of a batch. Default: {SEQUENCES}."),
    ] = None
    length: Annotated[
        int | None, typer.Option(min=2, max=1 << 20, help=f"Tokens of a sequence. Default: {LENGTH}.")
    ] = None
    dropout: Annotated[bool, typer.Option("--dropout", help="Fit with the model's own dropout.")] = False
    seed: Annotated[int, typer.Option(min=0, help="Seed of the start and of the order of the data.")] = 0
    moments: Annotated[MomentsChoice, typer.Option(help="What becomes of Adam's moments.")] = "reset"
    device: Annotated[Processor | None, typer.Option(help="Where to fit. Default: cpu.")] = None
    save_operator: Annotated[
        Path | None, typer.Option(help="Keep the fitted operator in this folder, to apply it again.")
    ] = None
    plot: Annotated[Path | None, typer.Option(help="Write a picture of the fit here (.png or .svg).")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing folders, in one step.")] = (
        False
    )
    dry_run: Dry = False


@dataclass(frozen=True)
class VerifyCall(Call):
    """Prove what a growth kept: function, gradients, moments, and how fast copies part. Exit code 1 if a promise fails.

    Example: [bold]outgrow verify small/ large/ --plot proof.png[/]
    """

    small: Folder
    large: Annotated[Path, typer.Argument(help="The state grown from it.", show_default=False)]
    data: Annotated[
        str | None,
        typer.Option(
            help="What to measure on: text (a file, glob or folder; default: Python's own sources), or images (an .npz)."
        ),
    ] = None
    steps: Annotated[
        int, typer.Option(min=0, help="AdamW steps to watch copies part; 0 compares the losses alone.")
    ] = 10
    learning_rate: Annotated[float, typer.Option(help="Learning rate of those steps.")] = 1e-3
    dtype: Annotated[
        Precision, typer.Option(help="What the proof computes in, whatever the weights are stored in.")
    ] = "float64"
    device: Annotated[Processor, typer.Option(help="Where to compute.")] = "cpu"
    plot: Picture = None
    dry_run: Dry = False


@dataclass(frozen=True)
class TrainCall(Call):
    """Train in stages, growing between them; start the same command again to resume.

    Example: [bold]outgrow train examples/quickstart.yaml --set output=runs/mine[/]
    """

    run: Annotated[Path, typer.Argument(help="A run.yaml.", show_default=False)]
    overrides: Annotated[
        list[str], typer.Option("--set", help="Override a key, as optimizer.learning_rate=1e-3. Repeatable.")
    ] = field(default_factory=list)
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Train in so many processes of this host, one a GPU. Several hosts: torchrun.",
        ),
    ] = None
    dry_run: Dry = False


@dataclass(frozen=True)
class QuickstartCall(Call):
    """See it work, in about four minutes on two idle cores: a grown model beside the same from scratch, for the same compute.

    Example: [bold]outgrow quickstart[/]
    """

    output: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: runs/quickstart.", show_default=False)
    ] = None
    overrides: Annotated[
        list[str], typer.Option("--set", help="Override a key of the run, as seed=2. Repeatable.")
    ] = field(default_factory=list)


@dataclass(frozen=True)
class PlanCall(Call):
    """Plan a staged run: which sizes, when to grow, what it saves; with --fit the law is fitted to your curves first.

    Example: [bold]outgrow plan examples/plan.yaml --plot plan.png --run run.yaml[/]
    """

    files: Annotated[
        list[Path], typer.Argument(help="A plan.yaml; after --fit also curve files.", show_default=False)
    ] = field(default_factory=list)
    fit: Annotated[
        list[str],
        typer.Option(
            "--fit",
            help="Curves to fit the law to: metrics.jsonl, run folder, .csv, trainer_state.json, event file.",
        ),
    ] = field(default_factory=list)
    overrides: Annotated[
        list[str], typer.Option("--set", help="Override a key, as target.loss=3.1. Repeatable.")
    ] = field(default_factory=list)
    plot: Picture = None
    run: Annotated[Path | None, typer.Option(help="Write the run.yaml of the plan here.")] = None


@dataclass(frozen=True)
class CompareCall(Call):
    """Staged against scratch: compute saved at equal decayed loss, with intervals. Start it again to resume or extend.

    Example: [bold]outgrow compare benchmarks/studies/lm-depth.yaml[/]
    """

    study: Annotated[
        Path, typer.Argument(help="A study file, as in benchmarks/studies/.", show_default=False)
    ]
    overrides: Annotated[
        list[str], typer.Option("--set", help="Override a key, as seeds=[0]. Repeatable.")
    ] = field(default_factory=list)
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what it takes; train nothing.")
    ] = False


def asked_sizes(words: Sequence[str]) -> dict[str, int]:
    """The sizes of `--to NAME=NUMBER`. Raises ConfigError for what is none, and for a name that comes twice.

    >>> asked_sizes(["hidden_size=768", "num_hidden_layers=12"])
    {'hidden_size': 768, 'num_hidden_layers': 12}
    """
    sizes = dict[str, int]()
    for word in words:
        name, size = _size(word)
        if name in sizes:
            raise ConfigError(f"--to {name} is given twice", got=f"{sizes[name]} and {size}")
        sizes[name] = size
    return sizes


def _size(word: str) -> tuple[str, int]:
    name, separator, value = word.partition("=")
    if not separator or not name:
        raise ConfigError(f"--to {word} is not a size", expected="NAME=NUMBER, as hidden_size=768")
    try:
        return name, int(value)
    except ValueError:
        raise ConfigError(
            f"--to {word}: not a whole number", got=value, expected="as hidden_size=768"
        ) from None
