"""An adapted model that is sharded (FSDP2) or replicated (DDP) over two processes trains as the plain one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_bases import TOKENS, adapted, tiny_llama
from torch import nn
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


def replicated() -> nn.Module:
    return DistributedDataParallel(adapted(tiny_llama()))


KINDS = {"fsdp2": sharded, "ddp": replicated}


def work(rank: int, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", N_PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_PROCESSES)
    try:
        torch.save(losses_of(KINDS[kind](), TOKENS), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_over_two_processes_are_those_of_one(kind: str, tmp_path: Path) -> None:
    # Both processes see the same batch, so the mean gradient is the plain one.
    torch.multiprocessing.spawn(work, args=(kind, str(tmp_path)), nprocs=N_PROCESSES)
    expected = losses_of(adapted(tiny_llama()), TOKENS)
    assert expected[-1] < 0.95 * expected[0]
    for rank in range(N_PROCESSES):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, rel=1e-4)
