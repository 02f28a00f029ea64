"""What it is worth to compute a masked model's head at the hidden places alone: `python benchmarks/masked_head.py`.

speed-up   median over rounds of (seconds of steps that hide every place / seconds of as many that hide `--share` of them)
FLOPs      what the formula of `cost/flops.py` takes off

A step that hides every place makes scores everywhere, which is what a model without this does for any share.
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table
from turns import in_turns, parser_of

from outgrow.comparing.timing import Turn
from outgrow.cost.flops import training_flops
from outgrow.data.needs import TextNeeds
from outgrow.engine.step import be_repeatable, choose_device
from outgrow.run.run_file import parse_run
from outgrow.training.stage_plans import plan_stages

EVERYWHERE = 0.999  # a share lies below 1
MODELS: dict[str, dict[str, Any]] = {
    "eurobert 6x48, 512": {"model_type": "eurobert", "num_hidden_layers": 6, "hidden_size": 48, "vocab_size": 512},
    "bert 4x256, 30522": {"model_type": "bert", "num_hidden_layers": 4, "hidden_size": 256, "vocab_size": 30_522},
    "bert 12x768, 30522": {"model_type": "bert", "num_hidden_layers": 12, "hidden_size": 768, "vocab_size": 30_522},
}  # fmt: skip


def turn_of(sizes: dict[str, Any], share: float, options: argparse.Namespace) -> tuple[Turn, int]:
    """The model ready for steps, and its FLOPs per token."""
    width, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    model = {
        **{name: value for name, value in sizes.items() if name != "vocab_size"},
        "num_attention_heads": max(1, width // 64) if width > 64 else 3,
        "intermediate_size": 4 * width if sizes["model_type"] == "bert" else width * 5 // 2,
        "max_position_embeddings": options.length,
        "tie_word_embeddings": True,
    }
    run = parse_run(
        {
            "output": "-",
            "model": model,
            "data": {
                "tokenizer": {"vocab_size": vocabulary},
                "sequence_length": options.length,
                "mask_share": share,
            },
            "batch": {"sequences": options.sequences},
            "stages": [{"name": "only", "tokens": 1}],
            "device": options.device,
            "precision": options.precision,
        }
    )
    config = plan_stages(run, TextNeeds(vocabulary, options.length, 0, 1, 2))[0].config
    return Turn(config, run, choose_device(run)), training_flops(config, options.length, share)[1]


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(steps=5)  # a vocabulary of 30,522 is slow on a CPU
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS)[:2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.15, 0.3])
    options = parser.parse_args()
    be_repeatable()
    table = Table("model, vocabulary", "hidden", "FLOPs", "tokens/s everywhere", "hidden alone", "speed-up")
    tokens = options.length * options.sequences
    for name in options.models:
        for share in options.shares:
            (all_, most), (some, few) = (turn_of(MODELS[name], one, options) for one in (EVERYWHERE, share))
            all_.take(1), some.take(1)
            turns = in_turns(all_, some, options)
            slow, fast = (1 / one for one in turns.seconds_per_token())
            table.add_row(
                name,
                f"{share:.0%}",
                f"{few / most - 1:.0%}",
                f"{slow:,.0f}",
                f"{fast:,.0f}",
                turns.speed_up(),
            )
    Console().print(table, f"{some.device.describe()}, {tokens} tokens a step", sep="\n")


if __name__ == "__main__":
    main()
