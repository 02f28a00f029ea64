"""A plain FSDP2 training loop that grows its model half way. Run: torchrun --nproc-per-node 2 examples/fsdp2_loop.py

Everything is PyTorch's own; outgrow is one line of it. On GPUs replace "gloo" by "cpu:gloo,cuda:nccl" and "cpu" by "cuda".
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

import outgrow


def main(steps: int = 20) -> list[float]:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def shard(model: torch.nn.Module) -> None:
        for layer in model.model.layers:  # type: ignore[union-attr]
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)

    torch.manual_seed(0)  # the same weights on every rank, before they are cut
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, bos_token_id=1, eos_token_id=2, **sizes))
    shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = torch.Generator().manual_seed(dist.get_rank())  # other sequences on every rank
    losses = []
    for step in range(steps):
        if step == steps // 2:
            to = {
                "hidden_size": 48,
                "num_attention_heads": 6,
                "num_key_value_heads": 6,
                "num_hidden_layers": 4,
            }
            model, optimizer, _ = outgrow.grow_model(
                model, optimizer, to=to, width="isometric", depth="identity", shard=shard
            )
        tokens = torch.randint(0, 8, (4, 16), generator=data).cumsum(1) % 64
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if dist.get_rank() == 0:
            print(f"step {step} loss {losses[-1]:.3f} parameters {model.num_parameters():,}")
    return losses


if __name__ == "__main__":
    main()
    dist.destroy_process_group()
