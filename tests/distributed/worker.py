"""What the tests of this folder look at, done once: `worker.py FOLDER`. One line of JSON on standard output per fact."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from distributed import forks
from outgrow.algebra.slots import MOMENTS
from outgrow.commands.ending import ended
from outgrow.engine.muon import Muon
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import choose_device, optimizer_step
from outgrow.errors import ConfigError, OutgrowError
from outgrow.parallel.pieces import fill, local, local_blocks, units
from outgrow.parallel.ranks import ALONE, LostRankError, Ranks, start_ranks
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState
from outgrow.store import libraries
from outgrow.store.source import MemorySource
from outgrow.training import loop
from outgrow.training.folder import opened_run
from outgrow.training.loop import train_run
from train.tiny_corpus import write_corpus

STEPS = 5
LARGE = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 31,
}
"""Sizes that four ranks cannot share evenly."""


WAYS = ({"width": "isometric", "depth": "identity"}, {"width": "pad", "depth": "stack"})
EXPERTS = {
    "model_type": "glm4_moe",
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
"""A mixture with a dense layer before it and selection biases, which are no parameters."""


def tell(fact: str, value: Any) -> None:
    print(json.dumps({"fact": fact, "value": value}), flush=True)


def tiny(folder: Path, output: str, **replace: Any) -> dict[str, Any]:
    """A staged run with dropout, a growth in both directions, new entries with a rate of their own and layers frozen at first."""
    run: dict[str, Any] = {
        "output": str(folder / output),
        "device": "cpu",
        "model": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 21,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "attention_dropout": 0.1,
            "tie_word_embeddings": True,
        },
        "data": {
            "source": str(folder / "text.txt"),
            "tokenizer": {"vocab_size": 300},
            "sequence_length": 16,
            "validation_share": 0.1,
        },
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"kind": "wsd", "warmup_tokens": 128, "decay_share": 0.3},
        "batch": {"sequences": 8, "micro_batch": 2},
        "stages": [
            {"name": "small", "tokens": 128 * STEPS},
            {
                "name": "large",
                "tokens": 128 * STEPS,
                "grow": {"to": LARGE},
                "new_entries": {"multiplier": 1.5},
                "freeze": {"what": ["model.layers.0.*"], "tokens": 256},
            },
        ],
        "evaluation": {"every_tokens": 256, "sequences": 6},
        "checkpoint": {"every_steps": 2, "keep": 1},
        "log_every_steps": 1,
    }
    return run | replace


def trained(run: dict[str, Any]) -> None:
    """Do a run, on the ranks of the environment."""
    ranks = start_ranks()
    train_run(parse_run(run), progress=False, ranks=ranks)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """Every loss that a run's log has, in order."""
    names = ("loss", "val_loss", "loss_before", "loss_after")
    return [row[name] for row in rows(folder) for name in names if name in row]


def digest(folder: Path) -> str:
    parts = [path.read_bytes() for path in sorted((folder / "final").glob("*.safetensors"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# ---- runs ---------------------------------------------------------------------------------------------------------------


def runs(folder: Path) -> None:
    """The same run on one rank and on two; killed ones resumed on as many ranks and on fewer."""
    asynchronous = {"checkpoint": {"every_steps": 2, "keep": 1, "asynchronous": True}}
    forks.run(1, lambda: trained(tiny(folder, "alone")))
    forks.run(2, lambda: trained(tiny(folder, "two", **asynchronous)))
    for name in ("alone", "two"):
        tell(f"losses {name}", losses(folder / name))
    tell("digest two", digest(folder / "two"))
    tell(
        "folders",
        sorted(path.parent.name + "/" + path.name for path in (folder / "two" / "stages").glob("*/*")),
    )
    resumed(folder, tiny(folder, "killed", **asynchronous))
    moved(folder)
    own_batches(folder)
    change: dict[str, dict[str, Any]] = {"muon": {}, "lion": {"model": EXPERTS, "bias_rate": 0.01}}
    for name in change:
        for world in (1, 2):
            optimizer = {"name": name, "learning_rate": 1e-3}
            run = tiny(folder, f"{name}-{world}", optimizer=optimizer, **change[name])
            small, large = ({**one, "tokens": 128 * 2} for one in run["stages"])
            if name == "lion":
                large = {
                    "name": "large",
                    "tokens": 128 * 2,
                    "grow": {"to": {"hidden_size": 24}, "depth": "identity"},
                }
            run["stages"] = [small, large]
            forks.run(world, partial(trained, run))
            tell(f"losses {name}-{world}", losses(folder / f"{name}-{world}"))


def own_batches(folder: Path) -> None:
    """Stages with a batch, a length, a precision and an optimizer of their own, on one rank and on two, which are killed after the boundary."""
    for name, world in (("own-1", 1), ("own-2", 2)):
        run = tiny(folder, name)
        small, large = run["stages"]
        small |= {"tokens": 64 * 2, "data": {"sequence_length": 8}}
        large |= {
            "tokens": 384 * 3,
            "data": {"sequence_length": 32},
            "batch": {"sequences": 12, "micro_batch": 3},
        }
        last = {
            "name": "last",
            "tokens": 64,
            "precision": "bf16",
            "optimizer": {"eps": 1e-6, "gradient_clip": None},
        }
        run["stages"] = [small, large, last]
        if world == 2:
            killed(world, run, partial(logged, folder / name, 4))
        forks.run(world, partial(trained, run))
        tell(f"losses {name}", losses(folder / name))


def killed(world: int, run: dict[str, Any], due: Callable[[], bool], victim: int = 0) -> None:
    """Start a run; when it is due, kill one rank, then the others."""
    children = forks.start(world, partial(trained, run))
    forks.kill_when(children, [children[victim]], due)


def resumed(folder: Path, run: dict[str, Any]) -> None:
    """One run that is killed while a checkpoint is written, told to stop, killed while the large model trains, and then let go on to its end."""
    root = folder / "killed"
    killed(2, run, lambda: any(root.glob("stages/1-*/step-*/*.distcp")))
    children = forks.start(2, lambda: os._exit(ended(lambda: told_to_stop(run))))
    tell("stopped", [os.waitstatus_to_exitcode(status) for status in forks.wait(children)])
    tell("logged when stopped", [row["step"] for row in rows(root) if row["kind"] == "train"])
    tell("saved when stopped", json.loads((root / "latest.json").read_text())["checkpoint"])
    killed(2, run, partial(logged, root, STEPS + 3), victim=1)
    forks.run(2, lambda: trained(run))
    tell("digest killed", digest(root))


def moved(folder: Path) -> None:
    """Four ranks, half of them replicas, grow and are killed; two go on and are killed; one ends it."""
    root, run = folder / "moved", partial(tiny, folder, "moved", checkpoint={"every_steps": 1})
    four = {"replicate": 2, "activation_checkpointing": True}
    killed(4, run(parallel=four), partial(logged, root, STEPS + 2))
    killed(2, run(), partial(logged, root, STEPS + 4))
    forks.run(1, lambda: trained(run()))
    tell("losses moved", losses(root))
    tell("ranks moved", [row["device"] for row in rows(root) if row["kind"] == "machine"])


def told_to_stop(run: dict[str, Any]) -> None:
    """Rank 1 alone gets SIGTERM, at the beginning of its third step: from outside it could come when the run is over."""
    begun = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return optimizer_step(*arguments, **options)

    loop.optimizer_step = counted  # in this fork alone
    trained(run)


def logged(root: Path, steps: int) -> bool:
    """Whether so many steps are in the log."""
    log = root / "metrics.jsonl"
    return log.is_file() and log.read_bytes().count(b'"kind": "train"') >= steps


# ---- pieces and growth --------------------------------------------------------------------------------------------------


def placements() -> Iterator[tuple[str, tuple[int, ...], list[Any]]]:
    """Meshes of four ranks and what lies on them."""
    yield "rows", (4,), [Shard(0)]
    yield "columns", (4,), [Shard(1)]
    yield "hybrid", (2, 2), [Replicate(), Shard(0)]
    yield "both", (2, 2), [Shard(0), Shard(1)]
    yield "rows twice", (2, 2), [Shard(0), Shard(0)]
    yield "replicas", (4,), [Replicate()]


def filled() -> None:
    """Every placement of even, uneven and nearly empty tensors, filled as DTensor itself would have cut it."""
    start_ranks()
    wrong = []
    for name, sizes, places in placements():
        mesh = init_device_mesh("cpu", sizes)
        for shape in ((8, 8), (7, 5), (3, 2), (1, 9)):
            whole = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(shape)
            expected = distribute_tensor(whole, mesh, places)
            empty = distribute_tensor(torch.full_like(whole, -1.0), mesh, places)
            fill(MemorySource({"weight": {"w": whole}}), "w", "weight", empty, block_bytes=20)
            if not torch.equal(empty.to_local(), expected.to_local()):
                wrong.append((name, shape))
    mesh = init_device_mesh("cpu", (2, 2))
    whole = torch.arange(32.0).view(8, 4)
    here = mesh.get_coordinate()
    assert here is not None
    rows_here = whole.view(2, 2, 2, 4)[
        here[1], here[0]
    ]  # first cut by the second dimension, then inside by the first
    strided = DTensor.from_local(
        torch.zeros(2, 4),
        mesh,
        [_StridedShard(0, split_factor=2), Shard(0)],
        shape=whole.shape,
        stride=(4, 1),
    )
    fill(MemorySource({"weight": {"w": whole}}), "w", "weight", strided)
    if not torch.equal(strided.to_local(), rows_here):
        wrong.append(("strided", (8, 4)))
    scalar = distribute_tensor(torch.zeros(()), mesh, [Replicate(), Replicate()])
    fill(MemorySource({"weight": {"w": torch.tensor(3.0)}}), "w", "weight", scalar)
    if float(scalar.to_local()) != 3.0:
        wrong.append(("scalar", ()))
    answer("filled", wrong)


def grown(folder: Path, ways: Sequence[dict[str, str]]) -> None:
    """A saved state grown into the shards of a larger model: every bit that lies here against a whole growth in memory."""
    ranks = start_ranks()
    state = TrainingState.from_pretrained(folder / f"two/stages/1-small/step-{STEPS:08d}")
    run = tiny(folder, "unused", parallel={"replicate": 2 if ranks.world == 4 else 1})
    answer(f"grown {ranks.world}", differing(state, run, ranks, {**LARGE, "vocab_size": 311}, ways))


def differing(
    state: TrainingState,
    run: dict[str, Any],
    ranks: Ranks,
    to: dict[str, Any],
    ways: Sequence[dict[str, str]] = WAYS,
) -> list[tuple[str, str, str]]:
    """Tensors of growths into this rank's parts that have other bits there than in one process."""
    wrong, moved = [], 0
    parsed = parse_run(run)
    for how in ways:
        large = grow(state, to=to, seed=3, **how)
        model = choose_device(parsed, ranks).build(large.config)
        optimizer = build_optimizer(model, parsed.optimizer)
        large.load_into(model, optimizer)
        expected = grow(state, to=to, seed=3, **how).source
        for name, parameter in model.named_parameters():
            entry = optimizer.state[parameter]
            tensors = {"weight": parameter, **{slot: entry[slot] for slot in MOMENTS if slot in entry}}
            assert float(entry["step"]) == large.steps[name]
            for slot, tensor in tensors.items():
                whole = expected.read(name, slot)
                for box, memory in local_blocks(tensor):
                    part = whole[tuple(slice(*span) for span in box)].contiguous()
                    moved += memory.numel()
                    if not torch.equal(part.view(torch.int32), memory.contiguous().view(torch.int32)):
                        wrong.append((how["width"], slot, name))
    assert moved
    return wrong


def stepped(folder: Path) -> None:
    """Losses and norms of steps on two ranks beside those of this process alone: SGD with momentum, and compiled layers."""
    ranks = start_ranks()
    compiled = nn.Module.compile
    # The layers are traced with FSDP2's hooks around them; generated code is another matter (tests/train/test_compiled.py).
    nn.Module.compile = lambda module, **options: compiled(module, backend="aot_eager", **options)  # type: ignore[method-assign]
    state = TrainingState.from_pretrained(folder / f"two/stages/1-small/step-{STEPS:08d}")
    still = {**state.config, "attention_dropout": 0.0}
    for name, own in {
        "sgd": {"optimizer": {"name": "sgd", "momentum": 0.9}},
        "compiled": {"compile": True},
    }.items():
        alone = parse_run(tiny(folder, "unused", **{**own, "compile": False}))
        found = [
            steps(still, state, run, among)
            for run, among in ((alone, ALONE), (parse_run(tiny(folder, "unused", **own)), ranks))
        ]
        if ranks.leads:
            tell(f"steps {name}", found)


def steps(config: dict[str, Any], state: TrainingState, run: RunConfig, ranks: Ranks) -> list[float]:
    """Loss and norm of three steps from the weights of a state."""
    device = choose_device(run, ranks)
    model = device.build(config)
    state.load_into(model)
    optimizer, found = build_optimizer(model, run.optimizer), list[float]()
    for step in range(3):
        tokens = torch.randint(config["vocab_size"], (4, 16), generator=torch.Generator().manual_seed(step))
        options: dict[str, Any] = {"learning_rate": 1e-2, "micro_batch": 2, "clip": 0.5, "seed": (0, step)}
        done = optimizer_step(model, optimizer, (tokens, tokens), device=device, **options)
        found += [done.loss, done.gradient_norm]
    return found


def muon() -> None:
    """Three steps of Muon on cut matrices against the same on whole ones; on four ranks some are cut along two dimensions."""
    ranks = start_ranks()
    ways: list[tuple[Any, list[Any]]] = [(init_device_mesh("cpu", (ranks.world,)), [Shard(0)])]
    if ranks.world == 4:
        both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
        ways += [(both, [_StridedShard(0, split_factor=2), Shard(0)]), (both, [Shard(0), Shard(1)])]
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 8), (8, 24), (7, 5), (2, 6), (12, 12)]
    draws = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]

    def cut(whole: Tensor, number: int) -> Tensor:
        mesh, places = ways[number % len(ways)]
        here = mesh.get_coordinate()
        rows, columns = (units(size, dim, places, mesh.shape, here) for dim, size in enumerate(whole.shape))
        part = whole[rows[:, None], columns].contiguous()
        return DTensor.from_local(part, mesh, places, shape=whole.shape, stride=whole.stride())

    def stepped(cut: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        parameters = [nn.Parameter(cut(one.clone(), number)) for number, one in enumerate(draws[0])]
        optimizer = Muon(parameters, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for gradients in draws[1:]:
            for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                parameter.grad = cut(gradient.clone(), number)
            optimizer.step()
        return [one.detach() for one in parameters]

    plain, found = stepped(lambda one, _: one), stepped(cut)
    wrong = [
        shapes[number]
        for number, (whole, one) in enumerate(zip(plain, found, strict=True))
        if not torch.equal(local(cut(whole, number)), local(one))
    ]
    answer(f"muon {ranks.world}", wrong)


def answer(fact: str, value: list[Any]) -> None:
    """Told by rank 0 for all ranks."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    if dist.get_rank() == 0:
        tell(fact, [one for part in found for one in part])
    dist.barrier()
    dist.destroy_process_group()


def mistakes(folder: Path) -> None:
    """What every rank hears of: another file on one host, an error on one rank, a folder in use, a full disk there; told by rank 0."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    ranks = start_ranks()
    heard, batch = {}, {"sequences": 6, "micro_batch": 2}
    for what, work in {
        "another file": lambda: ranks.agree("the run's configuration", {"seed": ranks.rank // 2}),
        "elsewhere": lambda: ranks.together(_only_on_two),
        "held": lambda: train_run(parse_run(tiny(folder, "held", batch=batch)), progress=False, ranks=ranks),
    }.items():
        try:
            work()
            heard[what] = "nothing"
        except OutgrowError as error:
            heard[what] = f"{type(error).__name__}: {error}"
    if ranks.rank == 1:

        def full(*_: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        FileSystemWriter.write_data = full  # type: ignore[method-assign]
    try:
        train_run(parse_run(tiny(folder, "full", batch=batch)), progress=False, ranks=ranks)
    except OutgrowError as error:
        heard["full"] = str(error)
    heard["pointed to"] = str((folder / "full" / "latest.json").exists())
    found = ranks.gather(heard)
    if ranks.leads:
        tell("mistakes", found)


def beside_another(folder: Path) -> None:
    """The mistakes, while this process holds the folder of a run that they begin too."""
    with opened_run(parse_run(tiny(folder, "held"))) as held:

        def found() -> dict[str, str]:
            files = (path for path in held.root.rglob("*") if path.is_file())
            return {str(path.relative_to(held.root)): path.read_bytes().hex() for path in files}

        before = found()
        forks.run(3, partial(mistakes, folder))
        tell("a folder in use", [before, found()])


def other_versions() -> None:
    """One host has another torch."""
    if os.environ["RANK"] == "1":
        libraries.version = lambda name: "2.0" if name == "torch" else "1.0"
    else:
        libraries.version = lambda name: "1.0"
    try:
        start_ranks()
    except ConfigError as error:
        if os.environ["RANK"] == "0":
            tell("other versions", str(error))
        return
    raise AssertionError("they agreed")


def _only_on_two() -> None:
    if os.environ["RANK"] == "2":
        raise ConfigError("the corpus is not on this host")


def lost() -> None:
    """Rank 1 of three hangs: the others name it."""
    os.environ["OUTGROW_TIMEOUT"] = "2"
    ranks = start_ranks()
    try:
        with ranks.watched():
            ranks.gather(ranks.rank)
            if ranks.rank == 1:
                time.sleep(12)
                os._exit(0)
            ranks.gather(ranks.rank)
    except LostRankError as error:
        if ranks.rank == 0:
            tell("lost", str(error).splitlines()[0])
            time.sleep(2)  # it serves the store to the other one
    os._exit(0)


def main(folder: Path) -> None:
    os.environ["OUTGROW_CACHE"] = str(folder / "cache")
    write_corpus(folder / "text.txt")
    runs(folder)
    forks.run(4, filled)
    forks.run(2, partial(stepped, folder))
    for world in (2, 3, 4):
        forks.run(world, muon)
    for world, ways in ((3, WAYS), (4, WAYS[:1])):
        forks.run(world, partial(grown, folder, ways))
    beside_another(folder)
    forks.run(2, other_versions)
    forks.run(3, lost)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
