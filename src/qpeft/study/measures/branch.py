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
from peft import PeftModel
from torch import Tensor, nn

from qpeft.adapters.qtha import QthaAdapter
from qpeft.layers import QuantumLayer
from qpeft.study.measures.subject import Subject, layer_index, left_out, qtha_adapters
from qpeft.study.measures.token_rows import watch_tokens
from qpeft.training.encoding import pad_token_id
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
    with core_shuffled(subject.model, subject.spec.seed, pad_token_id(subject.tokenizer)):
        result["shuffled"] = {**compared(subject.score(n), whole), "among": "tokens"}
    return result


@contextmanager
def core_ablated(model: nn.Module) -> Iterator[None]:
    """Take the cores out inside a `with` block: q is 0 where it is added, 1 where it multiplies."""
    with _cores_changed(model, lambda a: torch.ones_like if a.is_hadamard else torch.zeros_like):
        yield


@contextmanager
def core_shuffled(model: PeftModel, seed: int = 0, pad: int | None = None) -> Iterator[None]:
    """Give each token of a forward pass the q of another token of it inside a `with` block.

    The tokens of all texts of a batch stand in a ring, in an order that follows from the seed and their number,
    and each gets the q of the one before it. The ring is the same in all layers of a pass, so a token gets all
    its q from one other token. Padding keeps its q and gives it to nobody, and so does a text that has ended while
    others of its batch are still being written. A pass of a single token is left alone.

    Args:
        model: With QTHA adapters.
        seed: Of the order.
        pad: The token that `generate` feeds to a text that has ended; None takes it for a token like any other.
    """
    now = _TokensOfPass(pad)

    def shuffle(q: Tensor) -> Tensor:
        rows = q.flatten(0, -2)
        places = now.places(len(rows)).to(q.device)
        generator = torch.Generator().manual_seed(seed)
        ring = places[torch.randperm(len(places), generator=generator).to(q.device)]
        moved = rows.clone()
        moved[ring] = rows[ring.roll(1)]
        return moved.reshape(q.shape)

    with now.watching(model), _cores_changed(model, lambda _: shuffle):
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


class _TokensOfPass:
    """Knows which positions of the forward pass that is under way are tokens of a text."""

    def __init__(self, pad: int | None):
        self.pad = pad
        self._is_token: Tensor | None = None  # (texts, tokens)

    @contextmanager
    def watching(self, model: PeftModel) -> Iterator[None]:
        """Look at what the base model is given inside a `with` block: that is where every pass comes by."""
        base = model.get_base_model()
        handles = (
            base.register_forward_pre_hook(self._see, with_kwargs=True),
            base.register_forward_hook(self._forget, always_call=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def places(self, n_rows: int) -> Tensor:
        """Return the places of the tokens among so many rows; all of them where the pass does not say."""
        # Experts of a mixture see their tokens in a list of their own, without padding's place.
        if self._is_token is None or self._is_token.numel() != n_rows:
            return torch.arange(n_rows)
        return self._is_token.flatten().nonzero().flatten()

    def _see(self, _model: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None:
            return
        n_tokens = ids.shape[1]
        # What stands before is in the cache. `generate` gives no mask where no text of the batch is padded.
        is_token = torch.ones_like(ids) if mask is None else mask[:, -n_tokens:]
        self._is_token = is_token.bool()
        if n_tokens == 1 and self.pad is not None:
            # It goes on with a text that has ended: fed with padding, which no mask hides.
            self._is_token = self._is_token & (ids != self.pad)

    def _forget(self, _model: nn.Module, _args: Any, _output: Any) -> None:
        self._is_token = None


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
