"""What `compile: true` of a run is worth: `python benchmarks/compiled.py --models 8x96 6x192`, plain and compiled in turns.

speed-up   median over rounds of (seconds of plain steps / seconds of as many compiled steps)
compiling  seconds of the first step and the first validation, less those of a plain one
pays after the tokens at which the faster steps have paid for the compiling
"""

from __future__ import annotations

import argparse
import statistics
import time

from rich.console import Console
from rich.table import Table

from outgrow.train.compare.timing import Turn
from outgrow.train.engine import be_repeatable, choose_device, evaluate
from outgrow.train.needs import TextNeeds
from outgrow.train.run_file import parse_run
from outgrow.train.stages import plan_stages


def run_of(model: str, options: argparse.Namespace, *, compiled: bool):
    layers, width = map(int, model.split("x"))
    llama = {
        "model_type": "llama", "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": width * 8 // 3,
        "num_attention_heads": max(1, width // 32), "num_key_value_heads": max(1, width // 32),
        "max_position_embeddings": options.length, "tie_word_embeddings": True,
    }  # fmt: skip
    return parse_run(
        {
            "output": "-",
            "model": llama,
            "data": {"tokenizer": {"vocab_size": options.vocabulary}, "sequence_length": options.length},
            "batch": {"sequences": options.sequences},
            "stages": [{"name": "only", "tokens": 1}],
            "device": options.device,
            "precision": options.precision,
            "compile": compiled,
        }
    )


def turn_of(model: str, options: argparse.Namespace, *, compiled: bool) -> Turn:
    run = run_of(model, options, compiled=compiled)
    config = plan_stages(run, TextNeeds(options.vocabulary, options.length, 0, None))[0].config
    return Turn(config, run, choose_device(run))


def first(turn: Turn) -> float:
    began = time.perf_counter()
    turn.take(1)
    evaluate(turn.model, [turn.batch], turn.device)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["8x96", "6x192"], help="layers x width of Llamas")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    be_repeatable()
    table = Table("Llama", "tokens/s plain", "compiled", "speed-up (each round)", "compiling", "pays after")
    tokens = options.length * options.sequences
    for model in options.models:
        plain, compiled = (turn_of(model, options, compiled=one) for one in (False, True))
        cost = first(compiled) - first(plain)
        rounds = [(plain.take(options.steps), compiled.take(options.steps)) for _ in range(options.rounds)]
        slow, fast = (
            statistics.median(column) / (options.steps * tokens) for column in zip(*rounds, strict=True)
        )
        ratios = sorted(one / other for one, other in rounds)
        pays = f"{cost / (slow - fast) / 1e6:.2f} M tokens" if slow > fast else "never"
        speed_up = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(model, f"{1 / slow:,.0f}", f"{1 / fast:,.0f}", speed_up, f"{cost:.0f} s", pays)
        device = compiled.device.describe()
    Console().print(table, f"{device}, {tokens} tokens a step, vocabulary {options.vocabulary}", sep="\n")


if __name__ == "__main__":
    main()
