"""The command line: a verb, a folder or file, few flags. It parses words, calls the library, and prints.

Exit codes are told in `commands/ending.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from outgrow.commands.console import open_console
from outgrow.commands.ending import ended
from outgrow.errors import ConfigError
from outgrow.files.faulting import say_bus_errors
from outgrow.parallel.process import end_process, launched
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions, LesaOptions

app = typer.Typer(
    help="Grow a transformer in the middle of its training: weights, Adam moments and schedule.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(asked: bool) -> None:
    if asked:
        from outgrow import __version__

        print(f"outgrow {__version__}")
        raise typer.Exit


architectures_app = typer.Typer(rich_markup_mode="rich")
app.add_typer(architectures_app, name="architectures")

Folder = Annotated[
    Path, typer.Argument(help="A model folder, Trainer checkpoint or outgrow state.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and what it costs; touch nothing.")
]
FormatOption = Annotated[
    Literal["native", "trainer", "hub", "dcp", "accelerate", "torchtitan", "olmo-core"],
    typer.Option(help="What to write."),
]
MomentsChoice = Literal["transport", "cautious", "keep_zero", "copy", "parts", "reset"]
Precision = Literal["float64", "float32", "bfloat16"]
Processor = Literal["cpu", "cuda"]
NonFinite = Annotated[bool, typer.Option("--allow-nonfinite", help="Accept NaN and Inf in the source.")]


@app.callback()
def options(
    architectures: Annotated[
        list[Path],
        typer.Option(
            "--architectures",
            help="A folder of architecture files of your own. Repeat for more. Also: OUTGROW_ARCHITECTURES.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and stop."),
    ] = False,
) -> None:
    """Grow a transformer in the middle of its training: weights, Adam moments and schedule."""
    from outgrow.models.files import use_folders

    use_folders(architectures)


@app.command()
def inspect(checkpoint: Folder, as_json: Json = False, allow_nonfinite: NonFinite = False) -> None:
    """Show sizes and axes of a state, what can grow, and when the function is kept.

    Example: [bold]outgrow inspect small/[/]
    """
    from outgrow.commands.writing import read_state
    from outgrow.models.architecture import growable, resolve
    from outgrow.models.library import check_described
    from outgrow.report.explain import axis_table, size_table, state_facts

    _quiet_transformers()
    console = open_console(quiet=as_json)
    state = read_state(checkpoint, console, allow_nonfinite=allow_nonfinite)
    model = resolve(state.config)
    check_described(model, state.config)
    if as_json:
        axes = {
            name: {"size": model.sizes[name], "through": spec.through} for name, spec in model.axes.items()
        }
        _print_json(
            {
                **state_facts(state, model),
                "model_type": model.spec.model_type,
                "axes": axes,
                "growable": growable(model.spec),
            }
        )
        return
    console.print(size_table(state, model))
    console.print(axis_table(model))
    console.print(f"Sizes that can grow: {', '.join(growable(model.spec))}.")


@app.command()
def grow(
    checkpoint: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    to: Annotated[
        list[str],
        typer.Option("--to", help="A new size, as hidden_size=768. Repeat for each.", show_default=False),
    ] = [],  # noqa: B006
    width: Annotated[
        str | None,
        typer.Option(
            help="Width operator: see `outgrow operators`. Default: pad, or isometric behind a post-norm."
        ),
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="Depth operator: see `outgrow operators`. Default: stack.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Operator on experts: see `outgrow operators`. Default: copy.")
    ] = None,
    moments: Annotated[
        MomentsChoice | None,
        typer.Option(help="What becomes of Adam's moments. Default: transport; with --operator reset."),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Noise that no reader sees, in initializer ranges. Default: 0.1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of noise and fresh rows. Default: 0.")] = None,
    operator: Annotated[
        Path | None,
        typer.Option(help="A fitted operator's folder (see learn); it has its own sizes, width and depth."),
    ] = None,
    as_type: Annotated[
        str | None,
        typer.Option(
            "--as", help="Describe it as this model type first (see convert), as mixtral.", show_default=False
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="New peak of the learning rate; a Trainer that resumes takes it from the checkpoint."
        ),
    ] = None,
    reset_schedule: Annotated[
        bool,
        typer.Option("--reset-schedule", help="Schedule, steps and data begin anew; moments stay."),
    ] = False,
    format: FormatOption = "native",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing state, in one step.")
    ] = False,
    list_new: Annotated[
        bool,
        typer.Option(
            "--list-new", help="Only name the parameters of new layers, one per line; write nothing."
        ),
    ] = False,
    for_ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            help="With --dry-run: what each of so many processes would read, write and hold; needs a config.json alone.",
        ),
    ] = None,
    as_json: Json = False,
    dry_run: DryRunOption = False,
    allow_nonfinite: NonFinite = False,
) -> None:
    """Grow a state from file to file, streaming: weights, moments, steps and records.

    Example: [bold]outgrow grow small/ large/ --to hidden_size=768 --to num_hidden_layers=12[/]
    """
    from outgrow.commands.grow import grow_command, plan_ranks
    from outgrow.methods.options import GrowthOptions
    from outgrow.models.conversion import conversion
    from outgrow.parallel.ranks import start_ranks
    from outgrow.state.asked import plan_asked
    from outgrow.state.operator_file import load_operator
    from outgrow.store.config_file import load_config

    _quiet_transformers()
    if not to and operator is None:
        fix = (
            None
            if as_type is None
            else f"for a conversion alone: outgrow convert {checkpoint} {out} --as {as_type}"
        )
        expected = "--to NAME=NUMBER, or --operator FOLDER"
        raise ConfigError("nothing says what to grow", expected=expected, fix=fix)
    sizes = _sizes(to)
    options = GrowthOptions(
        width=width, depth=depth, experts=experts, moments=moments, noise=noise, seed=seed
    )
    config = load_config(checkpoint)
    described = None if as_type is None else conversion(config, as_type)
    config = config if described is None else dict(described.config)
    fitted = None if operator is None else load_operator(operator)
    plan = plan_asked(config, fitted, to=sizes, options=options)
    if list_new:
        for name in plan.new_parameters:
            print(name)
        return
    if for_ranks is not None:
        if not dry_run:
            fix = "give --dry-run too, or start the growth by torchrun --nproc-per-node N -m outgrow grow ..."
            raise ConfigError("--ranks only plans", fix=fix)
        planned = plan_ranks(plan, for_ranks, open_console(quiet=as_json))
        if as_json:
            _print_json(planned)
        return
    ranks = start_ranks()
    with ranks.watched():
        summary = grow_command(
            checkpoint,
            out,
            plan,
            fitted,
            described,
            format=format,
            learning_rate=learning_rate,
            reset_schedule=reset_schedule,
            overwrite=overwrite,
            dry_run=dry_run,
            allow_nonfinite=allow_nonfinite,
            console=open_console(quiet=as_json or not ranks.leads),
            ranks=ranks,
        )
    if as_json and ranks.leads:
        _print_json(summary)


@app.command()
def convert(
    checkpoint: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    as_type: Annotated[
        str, typer.Option("--as", help="The model type to become, as mixtral.", show_default=False)
    ],
    moments: Annotated[str, typer.Option(help="The optimizer's moments: transport or reset.")] = "transport",
    seed: Annotated[int, typer.Option(min=0, help="Seed of new tensors, as a router.")] = 0,
    format: FormatOption = "native",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing state, in one step.")
    ] = False,
    as_json: Json = False,
    dry_run: DryRunOption = False,
    allow_nonfinite: NonFinite = False,
) -> None:
    """Describe a state as another model type, exactly: a dense model as a mixture with one expert.

    Example: [bold]outgrow convert dense/ moe/ --as mixtral[/]
    """
    from outgrow.commands.convert import convert_command

    _quiet_transformers()
    summary = convert_command(
        checkpoint,
        out,
        as_type,
        moments=moments,
        seed=seed,
        format=format,
        overwrite=overwrite,
        dry_run=dry_run,
        allow_nonfinite=allow_nonfinite,
        console=open_console(quiet=as_json),
    )
    if as_json:
        _print_json(summary)


@app.command()
def export(
    checkpoint: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    format: FormatOption = "native",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing state, in one step.")
    ] = False,
    as_json: Json = False,
    allow_nonfinite: NonFinite = False,
) -> None:
    """Write a state in another format, streaming: for transformers, for Trainer, or sharded for another trainer.

    Example: [bold]outgrow export run/step-500 titan/step-500 --format torchtitan[/]
    """
    from outgrow.commands.export import export_command
    from outgrow.parallel.ranks import start_ranks

    _quiet_transformers()
    ranks = start_ranks()
    with ranks.watched():
        summary = export_command(
            checkpoint,
            out,
            format=format,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            console=open_console(quiet=as_json or not ranks.leads),
            ranks=ranks,
        )
    if as_json and ranks.leads:
        _print_json(summary)


@app.command()
def operators(
    name: Annotated[str, typer.Argument(help="Show this one in full.", show_default=False)] = "",
) -> None:
    """List the growth operators, or show one: what it does to each tensor, what is kept, its options and paper.

    Example: [bold]outgrow operators lemon[/]
    """
    from rich.markdown import Markdown

    from outgrow.methods.listing import operators as listing
    from outgrow.report.operators_page import one

    console = open_console()
    console.print(Markdown(one(name)) if name else listing().rich())


@architectures_app.callback(invoke_without_command=True)
def list_architectures(context: typer.Context, as_json: Json = False) -> None:
    """List the model types that can grow, or check a file that describes one.

    Example: [bold]outgrow architectures check my_model.yaml[/]
    """
    from outgrow.commands.architectures import list_command

    if context.invoked_subcommand is None:
        found = list_command(open_console(quiet=as_json))
        if as_json:
            _print_json(found)


@architectures_app.command("check")
def check_architecture(
    file: Annotated[
        str, typer.Argument(help="A file, as my_model.yaml, or a known model type.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Build tiny random models of a type, permute their units, grow them, and say what holds. Exit 1 where a promise fails.

    Example: [bold]outgrow architectures check my_model.yaml[/]
    """
    from outgrow.commands.architectures import check_command

    _quiet_transformers()
    found = check_command(file, open_console(quiet=as_json))
    if as_json:
        _print_json(found)
    if not found["passed"]:
        raise typer.Exit(1)


@app.command()
def learn(
    checkpoint: Folder,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    to: Annotated[
        list[str],
        typer.Option("--to", help="A new size, as hidden_size=768. Repeat for each.", show_default=False),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Text to fit on (a file, glob, folder or stdlib), or images (.npz); none for lesa."
        ),
    ] = None,
    method: Annotated[Literal["ligo", "mango", "lesa"], typer.Option(help="What is learned.")] = "ligo",
    steps: Annotated[
        int | None,
        typer.Option(help=f"Steps of the fit. Default: {LearnOptions.steps}; lesa {LesaOptions.steps}."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the fit. Default: 3e-4 from an exact start, else 1e-3.")
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of its warm-up. Default: a tenth.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Where the fit begins: exact (default), published, or WIDTH,DEPTH as selection,stack."
        ),
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            help=f"Width operator of an exact start, or of lesa's layers. Default: {LearnOptions.width}."
        ),
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help=f"Depth operator of an exact start. Default: {LearnOptions.depth}.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Rank of Mango's ring (default {LearnOptions.rank}), or singular vectors of lesa ({LesaOptions.rank}).",
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(min=1, help=f"Hidden units of lesa's network. Default: {LesaOptions.hidden}."),
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(min=1, help=f"Sequences, or images, of a batch. Default: {SEQUENCES}.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=2, help=f"Tokens of a sequence. Default: {LENGTH}.")
    ] = None,
    dropout: Annotated[bool, typer.Option("--dropout", help="Fit with the model's own dropout.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the start and of the order of the data.")] = 0,
    moments: Annotated[MomentsChoice, typer.Option(help="What becomes of Adam's moments.")] = "reset",
    device: Annotated[Processor | None, typer.Option(help="Where to fit. Default: cpu.")] = None,
    save_operator: Annotated[
        Path | None, typer.Option(help="Keep the fitted operator in this folder, to apply it again.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of the fit here (.png or .svg).")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing folders, in one step.")
    ] = False,
    as_json: Json = False,
    dry_run: DryRunOption = False,
) -> None:
    """Fit a learned operator to a source and its data, and grow by it.

    Example: [bold]outgrow learn small/ large/ --to hidden_size=768 --data text.xz --save-operator op/[/]
    """
    from outgrow.commands.learn import learn_command, refuse_options
    from outgrow.commands.learn_lesa import lesa_command

    _quiet_transformers()
    sizes = _sizes(to)
    given = _given(
        data=data,
        learning_rate=learning_rate,
        warmup=warmup,
        dropout=dropout or None,
        plot=plot,
        start=start,
        width=width,
        depth=depth,
        rank=rank,
        hidden=hidden,
        steps=steps,
        sequences=sequences,
        length=length,
        device=device,
    )
    always: dict[str, Any] = {
        "moments": moments,
        "keep": save_operator,
        "overwrite": overwrite,
        "dry_run": dry_run,
        "console": open_console(quiet=as_json),
    }
    if method == "lesa":
        own = {one.name: given.pop(one.name) for one in fields(LesaOptions) if one.name in given}
        lesa = LesaOptions(seed=seed, **own)
        summary = lesa_command(checkpoint, out, sizes, lesa, unused=_flags(given), **always)
    else:
        start = start or LearnOptions.start
        unused = [name for name in ("hidden", *LearnOptions(method, start).unread) if name in given]
        refuse_options(f"{method} --start {start}", _flags({name: given[name] for name in unused}))
        if data is None:
            raise ConfigError(f"--method {method} is fitted to data", fix="give --data TEXT, or images.npz")
        if data.endswith(".npz"):
            refuse_options(f"{method} on images", {"--length": length})
        own = _given(steps=steps, warmup_steps=warmup, width=width, depth=depth, rank=rank)
        options = LearnOptions(method, start, learning_rate=learning_rate, dropout=dropout, seed=seed, **own)
        summary = learn_command(
            checkpoint,
            out,
            sizes,
            data,
            options,
            plot=plot,
            **_given(sequences=sequences, length=length, device=device),
            **always,
        )
    if as_json:
        _print_json(summary)


@app.command()
def verify(
    small: Folder,
    large: Annotated[Path, typer.Argument(help="The state grown from it.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="What to measure on: text (a file, glob or folder; default: Python's own sources), or images (an .npz)."
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="AdamW steps to watch copies part; 0 compares the losses alone.")
    ] = 10,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of those steps.")] = 1e-3,
    dtype: Annotated[
        Precision, typer.Option(help="What the proof computes in, whatever the weights are stored in.")
    ] = "float64",
    device: Annotated[Processor, typer.Option(help="Where to compute.")] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.png or .svg).")] = None,
    as_json: Json = False,
    dry_run: DryRunOption = False,
) -> None:
    """Prove what a growth kept: function, gradients, moments, and how fast copies part. Exit code 1 if a promise fails.

    Example: [bold]outgrow verify small/ large/ --plot proof.png[/]
    """
    from outgrow.commands.verify import verify_command

    _quiet_transformers()
    summary = verify_command(
        small,
        large,
        data,
        steps=steps,
        learning_rate=learning_rate,
        dtype=dtype,
        device=device,
        plot=plot,
        dry_run=dry_run,
        console=open_console(quiet=as_json),
    )
    if as_json:
        _print_json(summary)
    if not summary.get("passed", True):
        raise typer.Exit(1)


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="A run.yaml.", show_default=False)],
    set_: Annotated[
        list[str], typer.Option("--set", help="Override a key, as optimizer.learning_rate=1e-3. Repeatable.")
    ] = [],  # noqa: B006
    nproc: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train in so many processes of this host, one a GPU. Several hosts: torchrun."
        ),
    ] = None,
    as_json: Json = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train in stages, growing between them; start the same command again to resume.

    Example: [bold]outgrow train examples/quickstart.yaml --set output=runs/mine[/]
    """
    if nproc is not None and nproc > 1 and not dry_run:
        from outgrow.parallel.launch import launch

        options = [word for one in set_ for word in ("--set", one)]
        options += ["--json"] * as_json
        raise typer.Exit(launch(nproc, ["train", str(run), *options]))
    from outgrow.commands.train import run_command

    run_command(run, overrides=set_, as_json=as_json, dry_run=dry_run, processes=nproc or 1)


@app.command()
def quickstart(
    output: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: runs/quickstart.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", help="Override a key of the run, as seed=2. Repeatable.")
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """See it work, in about four minutes on two idle cores: a grown model beside the same from scratch, for the same compute.

    Example: [bold]outgrow quickstart[/]
    """
    from outgrow.commands.quickstart import quickstart_command

    _quiet_transformers()
    summary = quickstart_command(output, set_, console=open_console(quiet=as_json))
    if as_json:
        _print_json(summary)


@app.command()
def plan(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="A plan.yaml; after --fit also curve files.", show_default=False),
    ] = None,
    fit: Annotated[
        list[str] | None,
        typer.Option(
            "--fit",
            help="Curves to fit the law to: metrics.jsonl, run folder, .csv, trainer_state.json, event file.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, as target.loss=3.1. Repeatable.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.png or .svg).")] = None,
    run: Annotated[Path | None, typer.Option(help="Write the run.yaml of the plan here.")] = None,
    as_json: Json = False,
) -> None:
    """Plan a staged run: which sizes, when to grow, what it saves; with --fit the law is fitted to your curves first.

    Example: [bold]outgrow plan examples/plan.yaml --plot plan.png --run run.yaml[/]
    """
    from outgrow.commands.plan import plan_command

    plan_command(files or [], fit or [], set_ or [], as_json=as_json, plot=plot, run=run)


@app.command()
def compare(
    study: Annotated[
        Path, typer.Argument(help="A study file, as in benchmarks/studies/.", show_default=False)
    ],
    set_: Annotated[list[str], typer.Option("--set", help="Override a key, as seeds=[0]. Repeatable.")] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what it takes; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Staged against scratch: compute saved at equal decayed loss, with intervals. Start it again to resume or extend.

    Example: [bold]outgrow compare benchmarks/studies/lm-depth.yaml[/]
    """
    from outgrow.commands.compare import compare_command, compare_dry

    _quiet_transformers()
    (compare_dry if dry_run else compare_command)(study, set_, as_json=as_json)


def main() -> None:
    """Entry point: `ending` says how it ends."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # before torch: spinning threads starve a shared machine
    say_bus_errors()
    code = ended(app)
    if launched():
        end_process(code)
    sys.exit(code)


# ---- words in, words out --------------------------------------------------------------------------------------------


def _sizes(words: Sequence[str]) -> dict[str, int]:
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


def _given(**options: Any) -> dict[str, Any]:
    """Options that were given: the others have their defaults where they are used."""
    return {name: value for name, value in options.items() if value is not None}


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    """Options under the names they have on the command line."""
    return {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _quiet_transformers() -> None:
    """Our messages are the ones that count."""
    import transformers

    transformers.logging.set_verbosity_error()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


if __name__ == "__main__":
    main()
