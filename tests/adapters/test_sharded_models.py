"""An adapted model that is sharded (FSDP) or replicated (DDP) over two processes trains as the plain one.

accelerate shards on GPUs only. What it does to a model there is done here on two CPUs: its own FSDP2 wrapping,
with its state told that this is a sharded run. torch's FSDP1 needs a GPU.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import PeftModel
from tiny_bases import TOKENS, adapted, logits, tiny_llama
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow

N_PROCESSES = 2
N_STEPS = 3


def losses_of(model: nn.Module, tokens: torch.Tensor) -> list[float]:
    """Train a few steps; before each, evaluate without gradients, which fills the caches."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(N_STEPS):
        model.eval()
        with torch.no_grad():
            losses.append(model(input_ids=tokens, labels=tokens).loss.item())
        model.train()
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return losses


def sharded() -> nn.Module:
    model = adapted(tiny_llama())
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def sharded_by_accelerate() -> nn.Module:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        reshard_after_forward=True,
    )
    accelerator = Accelerator(cpu=True)
    state: dict[str, Any] = AcceleratorState._shared_state
    state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    model: nn.Module = adapted(tiny_llama())
    # accelerate wraps a model together with its optimiser only.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    model, _ = accelerator.prepare(model, optimizer)
    return model


def replicated() -> nn.Module:
    return DistributedDataParallel(adapted(tiny_llama()))


KINDS = {
    "fsdp2": sharded,
    "fsdp2-accelerate": sharded_by_accelerate,
    "ddp": replicated,
}


def save(model: nn.Module, folder: Path) -> None:
    """Gather the whole weights in each process, and let the first one save the adapter."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    inner = model if isinstance(model, PeftModel) else model.module
    if dist.get_rank() == 0:
        inner.save_pretrained(folder, state_dict=state)


def work(rank: int, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", N_PROCESSES)
    # What accelerate reads.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(N_PROCESSES)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_PROCESSES)
    try:
        model = KINDS[kind]()
        wrapped = [type(module).__name__ for module in model.modules()]
        n_sharded = sum("FSDP" in name for name in wrapped)
        assert n_sharded >= (3 if "fsdp" in kind else 0)  # two layers and the rest, or more finely
        torch.save(losses_of(model, TOKENS), f"{folder}/{rank}.pt")
        save(model, Path(folder) / "adapter")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_like_one_and_save_what_loads(kind: str, tmp_path: Path) -> None:
    # Both processes see the same batch, so the mean gradient is the plain one.
    torch.multiprocessing.spawn(work, args=(kind, str(tmp_path)), nprocs=N_PROCESSES)
    plain = adapted(tiny_llama())
    expected = losses_of(plain, TOKENS)
    assert expected[-1] < 0.95 * expected[0]
    for rank in range(N_PROCESSES):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-4)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(plain.eval()), rtol=1e-3, atol=1e-4)
