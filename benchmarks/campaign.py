"""The campaign: kills, failing disks, random growths, hostile inputs. Resumable: what is done is not done again.

    python benchmarks/campaign.py --results runs/campaign --kills 1000 --growths 10000       all of it, hours on a core
    python benchmarks/campaign.py --results /tmp/c --kills 20 --growths 20 --every 20         a sample of each part
    python benchmarks/campaign.py --results /tmp/t --parts kills --cases train --kills 91     one command's kills

Each check is one line of `results.jsonl`; counts and what was wrong are printed at the end, and exit code 1 says that
something was. A C compiler is needed for the parts `kills` and `failures` (Linux).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from faults import forked, hostile, kills, sources  # noqa: E402

PARTS = ("kills", "failures", "growths", "hostile")
SHARES = {
    "grow native": 0.22,
    "grow native over": 0.14,
    "grow trainer": 0.12,
    "grow hub": 0.08,
    "train": 0.2,
    "learn": 0.03,
    "learn over": 0.03,
    "learn lesa": 0.02,
    "learn unkept": 0.02,
    "plan": 0.12,
    "compare": 0.02,
}
"""Of all kills. A study takes as long as thirty growths."""
Found = tuple[list[str], dict[str, Any]]
Check = tuple[str, Callable[[], Found]]


def main() -> None:
    """Parse words, do what is left, print counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of results.jsonl and of the work")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--kills", type=int, default=1000, help="in all, over grow, train, learn, plan, compare"
    )
    parser.add_argument("--cases", nargs="+", choices=SHARES, default=SHARES, help="what is killed")
    parser.add_argument("--growths", type=int, default=10_000)
    parser.add_argument(
        "--every", type=int, default=1, help="of failures and hostile inputs, only each so many-th"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no check after so many")
    options = parser.parse_args()
    _environment(options.results.resolve())
    forked.preloaded(HERE / "faults" / "preload.c")
    options.results.mkdir(parents=True, exist_ok=True)
    log = options.results / "results.jsonl"
    done = {(one["part"], one["name"]) for one in _read(log)}
    until = time.monotonic() + 60 * options.minutes
    with log.open("a") as file:
        for part in options.parts:
            for name, check in _checks(part, options):
                if (part, name) in done or time.monotonic() > until:
                    continue
                _warm()
                began = time.monotonic()
                wrong, facts = check()
                seconds = round(time.monotonic() - began, 2)
                row = {"part": part, "name": name, "wrong": wrong, "facts": facts, "seconds": seconds}
                file.write(json.dumps(row) + "\n")
                file.flush()
                if wrong:
                    print(f"{part}: {name}: {'; '.join(wrong)}", flush=True)
    sys.exit(_tell(_read(log)))


def _checks(part: str, options: argparse.Namespace) -> Iterator[Check]:
    """Every check of a part by name, in the same order every time."""
    place = options.results.resolve() / part
    if part == "growths":
        from faults import growths

        for number in range(options.growths):
            seed = options.seed * 10**9 + number
            yield f"seed {seed}", lambda seed=seed: growths.check(seed, place)
        return
    _warm()
    root = sources.make(place.parent / "sources")
    if part == "kills":
        whole = sum(SHARES[name] for name in options.cases)
        for name in options.cases:
            case, count = kills.CASES[name], round(SHARES[name] / whole * options.kills)
            if not count:
                continue
            bench = kills.Bench(case, root, place / case.name.replace(" ", "-") / "work")
            for at, check in kills.kills(bench, count, options.seed):
                yield f"{case.name}: {at}", _plain(check)
    elif part == "failures":
        cases = [case for name, case in kills.CASES.items() if name.startswith("grow")]
        cases = cases[: max(1, len(cases) // options.every)]
        for case in cases:
            checks = list(kills.failures(case, root, place / case.name.replace(" ", "-") / "work"))
            yield from ((f"{case.name}: {name}", _plain(check)) for name, check in checks[:: options.every])
    else:
        for one in list(hostile.cases())[:: options.every]:
            yield one.name, lambda one=one: (_meet(one, root, place), {})


def _plain(check: Callable[[], list[str]]) -> Callable[[], Found]:
    return lambda: (check(), {})


def _meet(one: hostile.Hostile, root: Path, place: Path) -> list[str]:
    """A hostile input in a copy of the sources: exit code 2 in ten seconds, nothing touched, nothing obeyed."""
    work = place / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(root, work)
    for name, text in (("run", sources.RUN), ("plan", sources.PLAN), ("study", sources.STUDY)):
        (work / f"{name}.yaml").write_text(sources.filled(text, work, work / "out"))
    words = one.spoil(work)
    before = forked.tree(work)
    result = forked.run(words, seconds=20, cwd=work)
    wrong = []
    if result.code != 2 and not (one.may_pass and result.code == 0):
        wrong.append(f"ended with {result.code}: {result.message[:200]}")
    if result.cpu > 10:
        wrong.append(f"took {result.cpu:.0f} CPU-seconds")
    if "Traceback" in result.err or "\x1b" in result.err + result.out or len(result.err) > 30_000:
        wrong.append(f"a traceback, an escape or {len(result.err)} characters")
    if result.code == 2 and (after := forked.tree(work)) != before:
        wrong.append(
            f"touched {sorted(name for name in {*before, *after} if before.get(name) != after.get(name))[:4]}"
        )
    return wrong


def _environment(results: Path) -> None:
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
    }
    places = {"OUTGROW_CACHE": str(results / "cache"), "OMP_NUM_THREADS": "1"}
    os.environ.update(fixed | places)


@cache
def _warm() -> None:
    """Everything that a child would import; what is left alone is copied by no child that looks for garbage."""
    gc.disable()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = ("grow", "train", "plan", "learn", "learn_lesa", "compare", "verify")
    for name in (
        "cli",
        "comparing.runner",
        "training.loop",
        "report.plan",
        *(f"commands.{one}" for one in names),
    ):
        import_module(f"outgrow.{name}")
    for name in ("LlamaForCausalLM", "ViTForImageClassification", "Trainer", "CONFIG_MAPPING"):
        getattr(transformers, name)
    for name in ("matplotlib.pyplot", "torch._subclasses.fake_tensor", "safetensors.torch"):
        import_module(name)
    gc.freeze()
    gc.enable()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _tell(rows: list[dict[str, Any]]) -> int:
    """Counts by part; 1 where something was wrong."""
    from faults import growths

    for part in PARTS:
        own = [row for row in rows if row["part"] == part]
        wrong = [row for row in own if row["wrong"]]
        kinds = (
            Counter(str(row["name"]).split(":")[0] for row in own) if part in ("kills", "failures") else {}
        )
        told = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})" if kinds else ""
        print(f"{part}: {len(own)} checks{told}, {len(wrong)} wrong")
        for row in wrong[:20]:
            print(f"    {row['name']}: {row['wrong']}")
    counts = growths.counts(row for row in rows if row["part"] == "growths")
    print(f"growths: {counts}")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
