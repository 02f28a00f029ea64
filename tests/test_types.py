"""Every architecture file is checked by its own example: names, units, files, and growth in exact arithmetic.

One tiny model per type (`example` of its file); `outgrow architectures check` does the same to a file of a user.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from outgrow.algebra.maps import padding
from outgrow.api.live import grow_model
from outgrow.cli import app
from outgrow.cost.flops import model_cost, training_flops_per_token
from outgrow.cost.frozen_flops import frozen_training_flops
from outgrow.cost.memory import training_memory
from outgrow.errors import ArchitectureError, GrowthError, OutgrowError
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.models.architecture import (
    architecture_of,
    described,
    growable,
    load_architecture,
    longest_sequence,
    resolve,
    with_positions,
)
from outgrow.models.files import FOLDERS, known, merged
from outgrow.models.library import build_model, model_tensors, saved_buffers
from outgrow.proof import guard, tiny_model
from outgrow.proof.verify import verify
from outgrow.state.asked import plan_growth
from outgrow.state.growing import grow
from outgrow.state.grown_view import GrownView
from outgrow.state.lineage import lineage_entry, replay
from outgrow.state.training_state import TrainingState
from outgrow.store.lineage import Lineage
from outgrow.store.source import MemorySource

TYPES = [name for name in known() if load_architecture(name).library == "transformers"]
"""CaiT, which is timm's, is tested in a process of its own: tests/test_cait.py."""


@pytest.mark.parametrize("model_type", TYPES)
def test_a_growth_is_planned_again_from_its_lineage(model_type: str) -> None:
    """Fields that follow (leading counts, pinned heads) and configs inside configs too."""
    spec = load_architecture(model_type)
    config = tiny_model.example(spec)
    assert spec.example is not None
    made = next(_plans(config, spec.example.grow))
    (entry,) = Lineage.parse(json.dumps(Lineage().then(lineage_entry(made))), "here").entries
    assert replay(config, entry).config == made.config
    assert entry.sizes_asked, "sizes grew"


def _plans(config: dict[str, Any], to: dict[str, int]) -> Iterator[GrowthPlan]:
    """Growths of an example that are allowed: behind a post-norm pad is not, nor isometric to every size."""
    for width, fewer in itertools.product(("pad", "isometric"), (set(), {"hidden_size", "dim", "d_model"})):
        with contextlib.suppress(GrowthError):
            sizes = {name: size for name, size in to.items() if name not in fewer}
            yield plan_growth(config, to=sizes, width=width, depth="identity")


def test_there_are_more_than_sixty() -> None:
    assert len(TYPES) >= 60


@pytest.mark.parametrize("model_type", TYPES)
def test_a_file_tells_the_truth(model_type: str) -> None:
    found = guard.check(load_architecture(model_type), operators=("isometric", "pad"))
    assert found.units <= guard.FUNCTION
    assert found.growths, found.refused
    for one in found.growths:
        assert one.function <= guard.FUNCTION or not one.promises_function, one
        assert one.law <= guard.LAW or not one.promises_law, one
    assert any(one.promises_function for one in found.growths), "something must be promised"


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("t5", {"tie_word_embeddings": True}),  # logits times d^-1/2
        ("t5", {"tie_word_embeddings": True, "feed_forward_proj": "relu"}),
        ("gemma", {"tie_word_embeddings": False}),
        ("gemma3", {"tie_word_embeddings": False}),
        ("qwen3_vl", {"tie_word_embeddings": True}),
        ("mpt", {"tie_word_embeddings": False}),
        ("granitemoehybrid", {"num_local_experts": 0, "num_experts_per_tok": 0}),  # dense, as the small ones
        ("granitemoeshared", {"shared_intermediate_size": 0}),
        ("lfm2", {"block_auto_adjust_ff_dim": True, "block_multiple_of": 8}),  # as all published ones
    ],
)
def test_other_ties_and_parts_that_are_absent(model_type: str, changes: dict[str, Any]) -> None:
    found = varied(model_type, changes)
    assert found.holds, found
    assert all(one.promises_function for one in found.growths if one.operator == "pad")


@pytest.mark.parametrize("model_type", ["olmo", "nanochat"])
def test_a_tied_head_behind_a_norm_without_a_gain_is_flagged(model_type: str) -> None:
    """The head would need c = 1, the norm needs c = D/d, and no gain stands between them."""
    found = varied(model_type, {"tie_word_embeddings": True})
    assert found.holds
    for one in found.growths:
        assert not one.promises_function
        assert any("no gain that could make up for a tied head" in why for why in one.why)


def varied(model_type: str, changes: dict[str, Any]) -> guard.Check:
    """The check of a file with other values in its example, where what is absent does not grow."""
    spec = load_architecture(model_type)
    assert spec.example is not None
    config = {**spec.example.config, **changes}
    spec = architecture_of({"model_type": model_type, **config})
    grow = {name: size for name, size in spec.example.grow.items() if name in growable(spec)}
    example = spec.example.model_copy(update={"config": config, "grow": grow})
    return guard.check(spec.model_copy(update={"example": example}), operators=("isometric", "pad"))


def test_a_file_without_an_example_is_not_done() -> None:
    spec = described("llama", {**merged("llama"), "example": None})
    with pytest.raises(ArchitectureError, match="no example to check it with"):
        guard.check(spec)


@pytest.mark.parametrize(
    ("model_type", "field"), [("electra", "embedding_size"), ("opt", "word_embed_proj_dim")]
)
def test_embeddings_of_another_width_than_the_stream_are_refused(model_type: str, field: str) -> None:
    config = tiny_model.example(load_architecture(model_type)) | {field: 16}
    with pytest.raises(ArchitectureError, match=rf"{field} = 16 is not described") as raised:
        resolve(config)
    assert f"{field} = hidden_size = 24" in str(raised.value)


# ---- the traps: each of these was promised once, and wrong ----------------------------------------------------------


def promises(model_type: str, to: dict[str, int], width: str) -> guard.GrowthCheck:
    found = guard.grown(tiny_model.example(load_architecture(model_type)), to, width)
    assert found.holds, found
    return found


@pytest.mark.parametrize(
    ("model_type", "width"), [("olmo", "pad"), ("nanochat", "pad"), ("nanochat", "isometric")]
)
def test_a_norm_without_a_gain_keeps_its_rms(model_type: str, width: str) -> None:
    size = 48 if model_type == "olmo" else 42
    assert promises(
        model_type, {"hidden_size": size, "num_attention_heads": 6, "num_key_value_heads": 3}, width
    ).promises_function


@pytest.mark.parametrize(
    ("model_type", "to"),
    [("mpt", {"d_model": 64, "n_heads": 8}), ("opt", {"hidden_size": 36, "num_attention_heads": 6})],
)
def test_an_eps_in_the_code_stays_right(model_type: str, to: dict[str, int]) -> None:
    assert promises(model_type, to, "pad").promises_function


def test_an_operator_that_changes_the_rms_promises_nothing_where_no_gain_follows() -> None:
    small = resolve(tiny_model.example(load_architecture("nanochat")))
    growth = build(small, {"hidden_size": 42}, width="pad")
    unscaled = replace(growth, axes={**growth.axes, "embed": padding(24, 42, fresh="readers")})
    found = plan(unscaled)
    assert plan(growth).keeps_function
    assert not found.keeps_function
    assert any("no gain" in one.why for one in found.compensation.findings)


@pytest.mark.parametrize("width", ["duplicate", "isometric"])
def test_copies_of_alibi_heads_are_flagged(width: str) -> None:
    found = promises("mpt", {"d_model": 64, "n_heads": 8}, width)
    assert not found.promises_function
    assert found.function > 1e-3
    assert any("ALiBi" in why for why in found.why)


def test_a_stream_that_a_nonlinearity_writes_cannot_be_scaled() -> None:
    small = tiny_model.example(load_architecture("whisper"))
    padded = guard.grown(
        small, {"d_model": 36, "encoder_attention_heads": 6, "decoder_attention_heads": 4}, "pad"
    )
    assert not padded.promises_function
    assert any("nonlinearity" in why for why in padded.why)


def test_a_gated_norm_over_a_product_needs_equal_copies() -> None:
    found = promises("mamba2", {"hidden_size": 40, "num_heads": 10}, "isometric")
    assert not found.promises_function
    assert found.function > 1e-3
    assert any("nothing can scale" in why for why in found.why)


def test_layers_among_which_features_enter_by_number_do_not_grow() -> None:
    config = tiny_model.example(load_architecture("qwen3_vl"))
    with pytest.raises(ArchitectureError, match="deepstack_visual_indexes"):
        guard.grown(config, {"num_hidden_layers": 5}, "pad")


def test_layers_of_two_kinds_are_not_mixed_where_a_field_counts_the_first() -> None:
    small = resolve(tiny_model.example(load_architecture("deepseek_v3")))
    with pytest.raises(GrowthError, match="first_k_dense_replace only counts the first ones"):
        build(small, {"num_hidden_layers": 6}, depth="stack")


def test_query_groups_that_stand_side_by_side_are_not_dealt_out() -> None:
    small = resolve(tiny_model.example(load_architecture("falcon")))
    with pytest.raises(GrowthError, match="side by side"):
        build(small, {"num_kv_heads": 4}, width="isometric")


def test_a_silent_layer_behind_a_post_branch_norm_has_a_zero_gain_and_a_whole_matrix() -> None:
    """Zeroing the matrix would keep the function too, but its gradient would grow by 1/√eps."""
    small = resolve(tiny_model.example(load_architecture("gemma2")))
    made = plan(build(small, {"num_hidden_layers": 5}, depth="identity"))
    silent = next(iter(made.growth.layers.silent))
    recipes = made.recipes["weight"]
    matrix = recipes[f"model.layers.{silent}.self_attn.o_proj.weight"]
    assert matrix.terms
    gain = recipes[f"model.layers.{silent}.post_attention_layernorm.weight"]
    assert [term.source for term in gain.terms] == [-1.0]  # stored w, used as 1 + w


def test_casts_inside_a_model_are_raised_to_float64() -> None:
    narrow = torch.tensor([1 / 3], dtype=torch.float64)
    with guard.float64_casts():
        values = (
            narrow.to(torch.float32),
            narrow.float(),
            narrow.softmax(0, dtype=torch.float32),
            torch.zeros(1, dtype=torch.float32),
        )
    assert {one.dtype for one in values} == {torch.float64}
    assert torch.equal(values[0], narrow)
    assert narrow.float().dtype == torch.float32


# ---- longer sequences, finer images, costs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "to"),
    [
        ("gpt2", {"n_positions": 23, "n_embd": 36, "n_head": 6}),
        ("opt", {"max_position_embeddings": 27}),
        ("bert", {"max_position_embeddings": 31, "hidden_size": 48, "num_attention_heads": 8}),
        ("roberta", {"max_position_embeddings": 31}),
        ("llama", {"max_position_embeddings": 64}),
        ("mpt", {"max_seq_len": 4096}),
    ],
)
def test_positions_grow_and_old_lengths_keep_their_logits(model_type: str, to: dict[str, int]) -> None:
    config = tiny_model.example(load_architecture(model_type))
    found = guard.grown(config, to, "isometric" if model_type == "bert" else "pad")
    assert found.holds
    assert found.promises_function
    made = plan(build(resolve(config), to, width="isometric" if model_type == "bert" else "pad"))
    table = next((name for name in made.large.parameters if re.search("wpe|position", name)), None)
    if table is not None:
        source = {name: one.detach() for name, one in model_tensors(tiny_model.tiny(config)).items()}
        rows = GrownView(made, MemorySource({"weight": source})).read(table, "weight")
        new = rows[made.small.shape(table)[0] :]
        assert len(new) == made.large.shape(table)[0] - made.small.shape(table)[0]
        assert float(new.std()) == pytest.approx(0.02, rel=0.3)  # drawn, each its own


def test_a_rope_type_that_reads_the_length_is_flagged() -> None:
    config = tiny_model.example(load_architecture("llama"))
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    made = plan(build(resolve(config), {"max_position_embeddings": 64}))
    assert not made.keeps_function
    assert any("dynamic" in one.why for one in made.compensation.findings)


def test_a_finer_grid_of_patches_resamples_its_positions() -> None:
    config = tiny_model.example(load_architecture("vit"))
    made = plan(build(resolve(config), {"image_size": 25}))
    assert not made.keeps_function
    source = {name: one.detach() for name, one in tiny_model.tiny(config).named_parameters()}
    name = "vit.embeddings.position_embeddings"
    found = GrownView(made, MemorySource({"weight": source})).read(name, "weight")
    patches = source[name][:, 1:].view(1, 3, 3, 24).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(patches, size=(5, 5), mode="bilinear", align_corners=True)
    assert torch.equal(found[:, :1], source[name][:, :1])
    torch.testing.assert_close(found[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, 25, 24))


COUNTED = [name for name in TYPES if load_architecture(name).objective in ("causal", "masked")]


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((name, {}) for name in COUNTED),
        ("granitemoehybrid", {"num_local_experts": 0, "num_experts_per_tok": 0}),
    ],
)
def test_flops_agree_with_pytorch(model_type: str, changes: dict[str, Any]) -> None:
    """Within 1 %: torch also counts the padding of a convolution."""
    from torch.utils.flop_counter import FlopCounterMode

    spec = load_architecture(model_type)
    config = tiny_model.example(spec) | changes
    chunks = [one.chunk for one in spec.scans.values()]
    length = 64 if chunks else 15  # scans pad a sequence to whole chunks
    config |= {chunk: 64 for chunk in chunks if isinstance(chunk, str)}
    model = build_model(config, dtype=torch.float64).double().eval()
    model.config._attn_implementation = "eager"
    tokens = (torch.arange(length)[None] * 7) % 31 + 3
    cost = model_cost(config)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=tokens)
    ours = cost.forward(length) * length + 2 * cost.once
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("kinds", [["c2p", "p2c"], ["p2c"], ["c2p"]])
def test_a_table_of_relative_positions_meets_every_token_and_is_projected_once(kinds: list[str]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_model.example(load_architecture("deberta-v2")) | {"pos_att_type": kinds}
    model, cost, flops = build_model(config).eval(), model_cost(config), []
    for items in (1, 4):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(input_ids=torch.arange(15).expand(items, -1) + 3)
        flops.append(counted.get_total_flops())
        assert flops[-1] == cost.forward(15) * 15 * items + 2 * cost.once
    assert flops[1] < 4 * flops[0]
    assert frozen_training_flops(config, 15, ()) == pytest.approx(
        training_flops_per_token(config, 15), rel=1e-3
    )


# ---- files of a user ------------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    """One command in this process, with the variable put back."""
    before = os.environ.pop(FOLDERS, None)
    try:
        return CliRunner().invoke(app, [*words])
    finally:
        os.environ.pop(FOLDERS, None)
        if before is not None:
            os.environ[FOLDERS] = before


SINKS = """
model_type: granite_swa
class: GraniteSWAForCausalLM
extends: granite
layers: {lists: [layer_types, layer_rope_theta]}
parameters:
  model.layers.{L}.self_attn.sinks: {axes: (kv_heads group)}
"""


def test_a_file_of_a_user_is_checked_and_used(tmp_path: Path) -> None:
    file = tmp_path / "granite_swa.yaml"
    file.write_text(SINKS)
    assert "granite_swa" not in known()
    result = run("architectures", "check", str(file), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["passed"]
    assert all(one["promises_function"] and one["function"] < 1e-12 for one in found["growths"])
    listed = json.loads(run("--architectures", str(tmp_path), "architectures", "--json").output)
    assert listed["granite_swa"]["file"] == str(file)
    assert "granite_swa" not in json.loads(run("architectures", "--json").output)


@pytest.mark.parametrize(
    "wrong",
    [
        "axes: {mlp: {size: intermediate_size, through: linear}}",
        "axes: {normed: {size: hidden_size, through: norm, of: embed, norm: layer, eps: rms_norm_eps}}",
        'parameters: {"model.layers.{L}.self_attn.o_proj.weight": {axes: "embed <- (group kv_heads value_dim)"}}',
    ],
)
def test_a_file_that_tells_an_untruth_fails(wrong: str, tmp_path: Path) -> None:
    """The user's file of a known type comes before outgrow's, and extends it."""
    file = tmp_path / "llama.yaml"
    file.write_text(f"model_type: llama\nclass: LlamaForCausalLM\nextends: llama\n{wrong}\n")
    result = run("architectures", "check", str(file))
    assert result.exit_code == 1, result.output
    assert "A promise fails" in result.output


BARE = """
model_type: llama
class: LlamaModel
extends: llama
objective: features
outputs: {last_hidden_state: final}
rename: {"model.": ""}
parameters: {lm_head.weight: null}
"""


@pytest.mark.parametrize(("pair", "passed"), [("kv_heads group", True), ("group kv_heads", False)])
def test_the_file_of_a_model_without_a_head_is_checked(pair: str, passed: bool, tmp_path: Path) -> None:
    """Units of its outputs change places too. Where heads stand in the wrong order, hidden states move."""
    file = tmp_path / "llama.yaml"
    read = f'"layers.{{L}}.self_attn.o_proj.weight": {{axes: "embed <- ({pair} value_dim)"}}'
    file.write_text(BARE.replace("lm_head.weight: null", f"lm_head.weight: null, {read}"))
    result = run("architectures", "check", str(file), "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["passed"]) == ((0, True) if passed else (1, False))
    assert (found["units"] < guard.FUNCTION) is passed
    assert all(one["promises_function"] for one in found["growths"])


def test_a_list_of_layers_that_the_file_forgets_is_named(tmp_path: Path) -> None:
    (tmp_path / "granite_swa.yaml").write_text(SINKS.replace(", layer_rope_theta", ""))
    result = run("architectures", "check", str(tmp_path / "granite_swa.yaml"))
    assert isinstance(result.exception, ArchitectureError), result.output
    assert "look at layer_rope_theta" in str(result.exception)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("last_hidden_state: final", "hidden: final", r"gives no output 'hidden'"),
        ("last_hidden_state: final", "last_hidden_state: finale", r"'finale', which is no axis"),
        ("outputs: {last_hidden_state: final}", "outputs: {}", r"objective features, outputs none"),
        ("objective: features", "objective: causal", r"objective causal, outputs"),
    ],
)
def test_mistakes_in_outputs_are_told(old: str, new: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "llama.yaml").write_text(BARE.replace(old, new))
    result = run("architectures", "check", str(tmp_path / "llama.yaml"))
    assert isinstance(result.exception, ArchitectureError), result.output
    assert re.search(says, str(result.exception)), result.exception


@pytest.mark.parametrize(
    ("width", "grow", "says"),
    [
        (24, "hiden_size: 42", "hiden_size is no size that grows"),
        (24, "hidden_size: 12", "24 in example.config, 12 in example.grow"),
        ("'24'", "hidden_size: 42", "does not accept example.config"),
    ],
)
def test_mistakes_in_an_example_are_told(width: object, grow: str, says: str, tmp_path: Path) -> None:
    heads = "num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8"
    config = f"{{hidden_size: {width}, {heads}, num_hidden_layers: 2, intermediate_size: 40, vocab_size: 37}}"
    (tmp_path / "mistral.yaml").write_text(
        "model_type: mistral\nclass: MistralForCausalLM\nextends: llama\n"
        f"example: {{config: {config}, grow: {{{grow}}}}}\n"
    )
    result = run("architectures", "check", str(tmp_path / "mistral.yaml"))
    assert isinstance(result.exception, ArchitectureError), result.output
    assert says in str(result.exception)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.yaml", None, "does not exist"),
        ("llama2.yaml", "model_type: llama\nclass: LlamaForCausalLM\nextends: llama\n", "name it llama.yaml"),
        ("x.yaml", "a: [", "invalid YAML in .*x.yaml, line 1"),
        ("x.yaml", "- a", "not a file of keys and values"),
        ("x.yaml", "model_type: x\nextends: y\n", "there is no file of it"),
        ("x.yaml", "model_type: x\nextends: x\n", "extends itself"),
        ("x.yaml", "model_type: x\nclass: X\nextends: llama\n", "no model type 'x'|unknown model type"),
    ],
)
def test_mistakes_in_the_file_of_a_user(name: str, content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    result = run("architectures", "check", str(tmp_path / name))
    assert isinstance(result.exception, OutgrowError), result.output
    assert re.search(says, str(result.exception)), result.exception


OWN = """model_type: llama
class: LlamaForCausalLM
extends: llama
axes:
  mlp: {size: intermediate_size, through: elementwise}
parameters:
  model.layers.{L}.mlp.up_proj.weight: {axes: mlp <- normed}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "{size: inter",
            "{sise: inter",
            r"line 5: unknown key axes\.mlp\.sise\n  expected: did you mean size\?",
        ),
        (
            "mlp <- normed",
            "mlp <= normed",
            r"line 7: parameters\..*up_proj\.weight\.axes: (.|\n)*'mlp <= normed'(.|\n)*to do",
        ),
        (
            "mlp <- normed",
            "mlp <- embd",
            r"line 7: .*axes names 'embd', which is no axis of it \(did you mean embed",
        ),
        (
            "mlp <- normed",
            "normed <- mlp",
            r"line 7: .*another shape(.|\n)*24, 40.*'normed <- mlp'\n  expected: .40, 24.\n",
        ),
        (
            "mlp.up_proj",
            "mlp.upp_proj",
            r"line 7: .*no such tensor\n  got: .*0\.mlp\.upp_proj(.|\n)*expected: (.|\n)*to do",
        ),
        (
            "{axes: mlp <- normed}",
            "{axes: mlp <- normed}\n  model.layers.{L}.mlp.up_proj.bias: {axes: mlp, when: mlp_bais}",
            r"line 8: parameters\..*up_proj\.bias\.when names no field(.|\n)*did you mean mlp_bias",
        ),
        (
            "extends: llama\n",
            "extends: llama\nextends: llama\n",
            r"line 4, column 1\n.*the key 'extends' is given twice",
        ),
        (
            "{axes: mlp <- normed}",
            "null",
            r"line 6: parameters: \d tensors of Llama.* have no entry\n  got: .*0\.mlp\.up_proj",
        ),
        (
            "intermediate_size",
            "intermediat_size",
            r"line 5: axes\.mlp\.size: (.|\n)*did you mean intermediate_size",
        ),
        (
            "LlamaForCausalLM",
            "LlamaForCasualLM",
            r"line 2: class: .*\n  expected: did you mean LlamaForCausalLM",
        ),
    ],
)
def test_a_wrong_file_of_a_user_says_file_line_key_and_what_to_do(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "llama.yaml"
    file.write_text(OWN.replace(old, new))
    said = str(run("architectures", "check", str(file)).exception)
    assert re.match(f"(architecture file|invalid YAML in) {file}, line ", said)
    assert re.search(says, said), said
    assert "report this config" not in said


# ---- whole states, and images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["deepseek_v3", "nemotron_h"])
def test_buffers_and_kinds_of_layers_go_through_every_file(model_type: str, tmp_path: Path) -> None:
    """Train a step, write every format, open it, grow it from file to file, and load it into a live model."""
    spec = load_architecture(model_type)
    assert spec.example is not None
    model = build_model(tiny_model.example(spec))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    corrections = {name: one for name, one in saved_buffers(model).items() if "correction" in name}
    assert corrections
    for one in corrections.values():
        one.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    tokens = (torch.arange(36).view(4, 9) * 7) % 31 + 3
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    state = TrainingState.from_model(model, optimizer)
    assert set(state.source.names("exp_avg")) == {name for name, _ in model.named_parameters()}
    for format in ("native", "hub", "trainer"):
        state.save_pretrained(tmp_path / format, format=format)
        opened = TrainingState.from_pretrained(tmp_path / format)
        for name, one in corrections.items():
            assert torch.equal(opened.source.read(name, "weight"), one)
    small = TrainingState.from_pretrained(tmp_path / "native")
    grow(small, to=spec.example.grow, depth="identity", noise=0.0).save_pretrained(tmp_path / "large")
    large = TrainingState.from_pretrained(tmp_path / "large")
    assert set(large.steps) == set(large.source.names("exp_avg"))
    grown = build_model(large.config)
    large.load_into(grown, torch.optim.AdamW(grown.parameters(), lr=1e-3))
    with torch.no_grad():
        before, after = (one.eval()(input_ids=tokens).logits for one in (model, grown))
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)  # float32, sums in another order


def seen(model: Any) -> dict[str, torch.Tensor]:
    """Tokens with an image among them, as each wrapper takes it."""
    tokens = (torch.arange(36).view(3, 12) * 5) % 28 + 3
    tokens[:, 3:7] = model.config.image_token_id
    shown = (tokens == model.config.image_token_id).long()
    generator = torch.Generator().manual_seed(0)
    if model.config.model_type == "gemma3":
        pixels = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
        return {"input_ids": tokens, "pixel_values": pixels, "token_type_ids": shown}
    tokens[:, 2], tokens[:, 7] = 33, 34
    pixels = torch.randn(3 * 16, 96, generator=generator, dtype=torch.float64)
    grid = torch.tensor([[1, 4, 4]] * 3)
    return {"input_ids": tokens, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": shown}


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_vl"])
def test_a_wrapper_grows_with_its_images(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "inputs", seen)
    spec = load_architecture(model_type)
    assert spec.example is not None
    found = guard.grown(tiny_model.example(spec), spec.example.grow, "isometric")
    assert found.promises_function
    assert found.function < 1e-12


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_vl"])
def test_fields_inside_a_config_are_read_there(model_type: str) -> None:
    """What no architecture file names: rope types, lengths, vocabulary, nonlinearity, initializer range."""
    spec = load_architecture(model_type)
    config = tiny_model.example(spec)
    inner = config["text_config"]
    assert longest_sequence(config) == inner["max_position_embeddings"] == 32
    assert with_positions(config, 64) == "text_config.max_position_embeddings: 64"
    ropes = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    yarn = config | {"text_config": inner | {"rope_parameters": ropes}}
    model = resolve(yarn)
    assert model.own_config["initializer_range"] == inner["initializer_range"]
    longer = plan(build(model, {"max_position_embeddings": 64}))
    assert longer.config["text_config"]["max_position_embeddings"] == 64
    assert not longer.keeps_function, "yarn depends on the longest length"
    equal = config | {"text_config": inner | {"num_key_value_heads": inner["num_attention_heads"]}}
    followed = plan(build(resolve(equal), {"num_attention_heads": 6}))
    assert followed.config["text_config"]["num_key_value_heads"] == 6
    field = "hidden_activation" if model_type == "gemma3" else "hidden_act"
    python = config | {"text_config": inner | {field: "gelu_new"}}
    fused, kept = (training_memory(one, sequences=1, sequence_length=8) for one in (config, python))
    assert kept.activations > fused.activations


@pytest.mark.parametrize("model_type", ["t5", "distilbert"])
def test_every_config_is_proved(model_type: str) -> None:
    """A vocabulary inside another config, no token that a decoder begins with, and an eps in the code."""
    spec = load_architecture(model_type)
    small = TrainingState.from_model(build_model(tiny_model.example(spec), torch.float32))
    assert spec.example is not None
    large = grow(small, to=tiny_model.doubled(resolve(small.config), spec.example.grow), depth="identity")
    assert verify(small, large, steps=1).passed


def test_what_a_class_freezes_itself_is_no_obstacle() -> None:
    """AFMoE's expert biases are parameters without gradients; what the user froze is refused."""
    model = build_model(tiny_model.example(load_architecture("afmoe")), torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    large, _, _ = grow_model(model, optimizer, to={"intermediate_size": 53})
    name = "model.layers.1.mlp.expert_bias"
    assert torch.equal(large.get_parameter(name), model.get_parameter(name))
    assert not large.get_parameter(name).requires_grad
    model.lm_head.weight.requires_grad_(False)
    with pytest.raises(GrowthError, match=r"frozen(.|\n)*lm_head"):
        grow_model(model, optimizer, to={"intermediate_size": 53})


def test_shards_of_a_model_with_saved_buffers_open_again(tmp_path: Path) -> None:
    """DeepSeek's selection bias is saved with the weights, and no optimizer has it."""
    model = build_model(tiny_model.example(load_architecture("deepseek_v3")), torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(one.square().sum() for one in model.parameters()).backward()
    optimizer.step()
    TrainingState.from_model(model, optimizer).save_pretrained(tmp_path / "shards", format="accelerate")
    again = TrainingState.from_pretrained(tmp_path / "shards")
    assert again.optimizer is not None
    assert {name for one in again.optimizer.groups for name in one.names} == set(
        dict(model.named_parameters())
    )
    bias = next(name for name in again.source.names("weight") if name.endswith("e_score_correction_bias"))
    assert again.source.meta(bias, "weight").shape == model.get_buffer(bias).shape
