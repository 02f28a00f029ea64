"""Small sound inputs of every kind: what the campaign kills, fails and damages."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
RUN = """
output: OUT
seed: 3
data: {source: TEXT, tokenizer: {path: TOKENIZER}, sequence_length: 16, validation_share: 0.1}
model: {model_type: llama, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2,
  num_key_value_heads: 1, max_position_embeddings: 64}
optimizer: {learning_rate: 3e-3}
schedule: {kind: wsd, warmup_tokens: 64, decay_share: 0.3}
batch: {sequences: 4}
evaluation: {sequences: 8}
log_every_steps: 3
checkpoint: {every_steps: 4, keep: 2}
stages:
  - {name: small, tokens: 640}
  - name: large
    tokens: 640
    grow: {to: {hidden_size: 24, intermediate_size: 40, num_attention_heads: 3, num_key_value_heads: 1, num_hidden_layers: 2}, depth: identity, width: isometric}
"""
PLAN = """
target: {size: large, tokens: 40M}
model: {model_type: llama, vocab_size: 64, max_position_embeddings: 64}
candidates:
  - name: small
    sizes: {hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}
  - name: large
    sizes: {hidden_size: 128, intermediate_size: 192, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}
law: {kind: chinchilla, version: replicated}
operators: {both: {loss_gap: 0.0, lost_tokens: 100k}}
stages: 2
grow: {width: pad, depth: stack}
run:
  output: OUT
  data: {source: TEXT, tokenizer: {path: TOKENIZER}, sequence_length: 16}
  optimizer: {learning_rate: 2e-3}
  batch: {sequences: 4}
"""
STUDY = """
title: two arms
output: OUT
common:
  data: {source: TEXT, tokenizer: {path: TOKENIZER}, sequence_length: 16, validation_share: 0.1}
  optimizer: {}
  batch: {sequences: 4}
  evaluation: {sequences: 8}
budgets: [384, 640]
seeds: [0]
tuning: {rates: [2e-3]}
timing: {rounds: 1, steps: 1}
baseline: scratch
arms:
  scratch:
    model: &large {model_type: llama, hidden_size: 24, intermediate_size: 40, num_hidden_layers: 2, num_attention_heads: 3, num_key_value_heads: 1, max_position_embeddings: 64}
  grown:
    model: {model_type: llama, hidden_size: 24, intermediate_size: 40, num_hidden_layers: 1, num_attention_heads: 3, num_key_value_heads: 1, max_position_embeddings: 64}
    stages:
      - {tokens: 384}
      - {grow: {to: {num_hidden_layers: 2}, depth: stack}}
"""
DEEPER = ("--to", "num_hidden_layers=3", "--depth", "identity")
WIDER = ("--to", "hidden_size=24", "--to", "num_attention_heads=3", "--to", "num_key_value_heads=1")


def make(root: Path) -> Path:
    """`root` filled with the sources, whole or not at all."""
    if root.is_dir():
        return root
    building = root.with_name(root.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    _text(building)
    _models(building)
    _images(building)
    curve = "".join(
        f"{1e5 * 1.3**n:.0f},{1.5 + 30 * (1e5 * 1.3**n) ** -0.25:.5f},1000000\n" for n in range(20)
    )
    (building / "curve.csv").write_text("tokens,loss,parameters\n" + curve)
    building.rename(root)
    _run(root)
    for name, text in (("run", RUN), ("plan", PLAN), ("study", STUDY)):
        (root / f"{name}.yaml").write_text(filled(text, root, root / "out"))
    return root


def filled(text: str, root: Path, out: Path) -> str:
    """A run file, plan or study with its paths."""
    places = {"OUT": out, "TEXT": root / "text.txt", "TOKENIZER": root / "hub"}
    for word, path in places.items():
        text = text.replace(word, str(path))
    return text


def _run(root: Path) -> None:
    """A run that is done."""
    from outgrow.run.run_file import load_run
    from outgrow.training.loop import train_run

    (root / "done.yaml").write_text(filled(RUN, root, root / "done"))
    train_run(load_run(root / "done.yaml"), progress=False)


def _text(root: Path) -> None:
    words = [f"w{n}" for n in range(60)]
    pick = random.Random(0)
    (root / "text.txt").write_text("\n".join(" ".join(pick.choices(words, k=12)) for _ in range(400)) + "\n")


def tokenizer(folder: Path, size: int = 64) -> None:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(size - 3))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)


def _models(root: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

    from outgrow import TrainingState

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.arange(3, 35).view(2, 16)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(root / "hub")
    deep = LlamaConfig(**(SIZES | {"num_hidden_layers": 3}), bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(deep).save_pretrained(root / "deep")
    model.save_pretrained(root / "shards", max_shard_size="6KB")
    for name in ("hub", "shards"):
        tokenizer(root / name)
    assets = tuple(path for path in (root / "hub").iterdir() if path.name.startswith("tokenizer"))
    state = TrainingState.from_model(
        model, optimizer, records={"run": {"step": 2}, "data": {"kind": "text"}}, assets=assets
    )
    state.save_pretrained(root / "native")
    state.save_pretrained(root / "trainer", format="trainer")
    picture = {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
        "num_labels": 3,
        "hidden_size": 8,
        "num_hidden_layers": 2,
    }
    vit = ViTConfig(**picture, num_attention_heads=2, intermediate_size=12)
    ViTForImageClassification(vit).save_pretrained(root / "vit")


def _images(root: Path) -> None:
    dice = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": dice.integers(0, 255, (40, 8, 8, 3), dtype=np.uint8),
        "labels": dice.integers(0, 3, 40),
    }
    np.savez(root / "images.npz", **content)
