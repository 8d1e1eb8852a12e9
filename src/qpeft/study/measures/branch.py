"""What the core of a QTHA adapter, the circuit or its control, is worth in the trained adapter.

The update of a layer is (trunk + branch) times the up matrix, in both fusions:

    linear      trunk = C z        branch = Q q               without the core: q = 0
    hadamard    trunk = C z        branch = (C z) * (q - 1)   without the core: q = 1
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.adapters.qtha import QthaAdapter
from qpeft.layers import QuantumLayer
from qpeft.study.measures.subject import Subject, layer_index, left_out, qtha_adapters
from qpeft.study.measures.token_rows import watch_tokens
from qpeft.training.evaluation import Evaluation

Change = Callable[[Tensor], Tensor]
"""From what a core gives, (..., r), to what takes its place."""


def measure_branch(subject: Subject) -> dict[str, Any]:
    """Return how much of the update the core carries, and what happens without it.

    Returns:
        The keys in the table of `qpeft.study.measures`, or why it was left out.
    """
    adapters = {n: a for n, a in qtha_adapters(subject.model).items() if a.core is not None}
    if not adapters:
        return left_out("the arm has no core beside its dense branch")
    result: dict[str, Any] = {}
    if subject.spec.n_rows:
        result |= _measure_shares(subject, adapters)
    n = subject.spec.n_branch_examples
    if n == 0:
        return result
    whole = subject.score_unchanged(n)
    result |= {
        "n_examples": whole.n,
        "unablated": {"accuracy": whole.accuracy, "test_loss": whole.loss},
    }
    with core_ablated(subject.model):
        result["ablated"] = compared(subject.score(n), whole)
    with core_shuffled(subject.model, subject.spec.seed):
        result["shuffled"] = compared(subject.score(n), whole)
    return result


@contextmanager
def core_ablated(model: nn.Module) -> Iterator[None]:
    """Take the cores out inside a `with` block: q is 0 where it is added, 1 where it multiplies."""
    with _cores_changed(model, lambda a: torch.ones_like if a.is_hadamard else torch.zeros_like):
        yield


@contextmanager
def core_shuffled(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Give each token of a forward pass the q of another one inside a `with` block.

    All tokens of a pass (of all texts in the batch, padding included) are permuted. The permutation follows from
    the seed and their number: it is the same in all layers of a pass, so a token gets all its q from one other
    token. A pass of a single token is left alone.
    """

    def shuffle(q: Tensor) -> Tensor:
        rows = q.flatten(0, -2)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(rows), generator=generator).to(q.device)
        return rows[order].reshape(q.shape)

    with _cores_changed(model, lambda _: shuffle):
        yield


def compared(now: Evaluation, whole: Evaluation) -> dict[str, float]:
    """Return an evaluation, and its differences to the one of the whole adapter on the same examples."""
    pairs = zip(now.predictions, whole.predictions, strict=True)
    return {
        "accuracy": now.accuracy,
        "accuracy_difference": now.accuracy - whole.accuracy,
        "test_loss": now.loss,
        "test_loss_difference": now.loss - whole.loss,
        "changed_answers": sum(a.text != b.text for a, b in pairs) / now.n,
    }


class _ChangedCore(nn.Module):
    """A core whose output is changed; circuits are bound once, in the place of the adapter's cache."""

    def __init__(self, core: Any, change: Change):
        super().__init__()
        self.core, self.change = core, change
        self.bound = core.bind() if isinstance(core, QuantumLayer) else None

    def forward(self, z: Tensor) -> Tensor:
        q = self.core(z) if self.bound is None else self.core.evaluate(self.bound, z)
        return self.change(q)


@contextmanager
def _cores_changed(model: nn.Module, change_for: Callable[[QthaAdapter], Change]) -> Iterator[None]:
    adapters = [a for a in qtha_adapters(model).values() if a.core is not None]
    cores = [a.core for a in adapters]
    try:
        with torch.no_grad():
            for adapter in adapters:
                adapter.core = _ChangedCore(adapter.core, change_for(adapter))  # type: ignore[assignment]
        yield
    finally:
        for adapter, core in zip(adapters, cores, strict=True):
            adapter.core = core
            if isinstance(core, QuantumLayer):
                adapter.run_on(core.evaluation)  # which forgets what was contracted meanwhile


def _measure_shares(subject: Subject, adapters: dict[str, QthaAdapter]) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}

    def see(name: str, inputs: Tensor, _outputs: Tensor) -> None:
        found[name] = _shares_of(adapters[name], inputs)

    watchers: Any = {adapter: partial(see, name) for name, adapter in adapters.items()}
    n_rows = watch_tokens(subject, watchers, subject.spec.n_rows)
    modules = [{"module": n, "layer": layer_index(n), **shares} for n, shares in found.items()]
    keys = ("share", "varying_share", "nonlinear_share")
    means = {key: sum(one[key] for one in found.values()) / len(found) for key in keys}
    return {**means, "modules": modules, "n_rows": n_rows}


@torch.no_grad()
def _shares_of(adapter: QthaAdapter, inputs: Tensor) -> dict[str, float]:
    """Return the shares of one layer, for its inputs (rows, d_in)."""
    (now,) = adapter.contract([adapter], adapter.bind_circuits([adapter]))
    z = nn.functional.linear(inputs, now.down.to(inputs.dtype))  # (rows, r)
    core: Any = adapter.core
    q = core(z) if now.circuits is None else core.evaluate(now.circuits, z)
    z, q, up = z.double(), q.double(), now.up.double()
    trunk = z @ adapter.C.double().mT
    branch = trunk * (q - 1) if adapter.Q is None else q @ adapter.Q.double().mT
    trunk, branch = trunk @ up, branch @ up  # (rows, d_out)
    by_row = _share(branch.norm(dim=-1), trunk.norm(dim=-1))
    moving, still = branch - branch.mean(0), trunk - trunk.mean(0)
    affine = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    # The pseudo-inverse also serves where z has fewer directions than r.
    rest = branch - affine @ (torch.linalg.pinv(affine) @ branch)
    total = (moving + still).norm()
    return {
        "share": float(by_row.mean()),
        "varying_share": float(_share(moving.norm(), still.norm())),
        "nonlinear_share": min(1.0, float(rest.norm() / total)) if total > 0 else 0.0,
    }


def _share(part: Tensor, other: Tensor) -> Tensor:
    return part / (part + other).clamp(min=math.ulp(0.0))
