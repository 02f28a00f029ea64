"""What `compile: true` of a run is worth: `python benchmarks/compiled.py --models 8x96 6x192`, plain and compiled in turns.

speed-up   median over rounds of (seconds of plain steps / seconds of as many compiled steps)
compiling  seconds of the first step and the first validation, less those of a plain one
pays after the tokens at which the faster steps have paid for the compiling
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.table import Table
from turns import in_turns, parser_of

from outgrow.comparing.timing import Turn
from outgrow.data.needs import TextNeeds
from outgrow.engine.step import be_repeatable, choose_device, evaluation_loss
from outgrow.run.run_file import parse_run
from outgrow.training.stage_plans import plan_stages


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
    evaluation_loss(turn.model, [turn.batch], turn.device)
    return time.perf_counter() - began


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["8x96", "6x192"], help="layers x width of Llamas")
    parser.add_argument("--vocabulary", type=int, default=512)
    options = parser.parse_args()
    be_repeatable()
    table = Table("Llama", "tokens/s plain", "compiled", "speed-up (each round)", "compiling", "pays after")
    tokens = options.length * options.sequences
    for model in options.models:
        plain, compiled = (turn_of(model, options, compiled=one) for one in (False, True))
        cost = first(compiled) - first(plain)
        turns = in_turns(plain, compiled, options)
        slow, fast = turns.seconds_per_token()
        pays = f"{cost / (slow - fast) / 1e6:.2f} M tokens" if slow > fast else "never"
        table.add_row(model, f"{1 / slow:,.0f}", f"{1 / fast:,.0f}", turns.speed_up(), f"{cost:.0f} s", pays)
        device = compiled.device.describe()
    Console().print(table, f"{device}, {tokens} tokens a step, vocabulary {options.vocabulary}", sep="\n")


if __name__ == "__main__":
    main()
