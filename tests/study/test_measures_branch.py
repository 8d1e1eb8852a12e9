"""What the core of an adapter carries is found by taking it out, and it is put back exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_runs import IDS, LORA, QTHA, logits, make_subject
from torch import Tensor

from qpeft.study.measures.branch import core_ablated, core_shuffled, measure_branch
from qpeft.study.measures.subject import Subject, qtha_adapters
from qpeft.training.encoding import pad_token_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def qtha(folder: Path) -> Subject:
    return make_subject(folder / "qtha", QTHA)


@pytest.fixture(scope="module")
def hadamard(folder: Path) -> Subject:
    return make_subject(folder / "hadamard", {**QTHA, "fusion": "hadamard"})


@pytest.fixture(scope="module")
def lora(folder: Path) -> Subject:
    return make_subject(folder / "lora", LORA)


def bits(subject: Subject) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}


def with_q(subject: Subject, value: float) -> Tensor:
    """The logits where Q is set to zero by hand, or the core replaced by a constant."""
    adapters = qtha_adapters(subject.model).values()
    kept = [(a.Q.detach().clone(), a) for a in adapters if a.Q is not None]
    for _, adapter in kept:
        adapter.Q.data.fill_(value)
        adapter.run_on(adapter.core.evaluation)
    result = logits(subject)
    for old, adapter in kept:
        adapter.Q.data.copy_(old)
        adapter.run_on(adapter.core.evaluation)
    return result


def test_without_its_core_an_adapter_is_the_one_whose_q_matrix_is_zero(qtha: Subject) -> None:
    with core_ablated(qtha.model):
        ablated = logits(qtha)
    torch.testing.assert_close(ablated, with_q(qtha, 0.0))
    assert not torch.allclose(ablated, logits(qtha), atol=1e-3)


def test_without_its_core_a_hadamard_adapter_is_its_dense_branch(hadamard: Subject) -> None:
    adapter = next(iter(qtha_adapters(hadamard.model).values()))
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), core_ablated(hadamard.model):
        ablated = adapter(x)
        (now,) = adapter.contract([adapter], {})
        torch.testing.assert_close(ablated, x @ now.down.mT @ adapter.C.mT @ now.up)


@pytest.mark.parametrize("change", [core_ablated, core_shuffled])
@pytest.mark.parametrize("name", ["qtha", "hadamard"])
def test_an_ablation_leaves_the_adapter_exactly_as_it_was(
    request: pytest.FixtureRequest, name: str, change: Any
) -> None:
    subject: Subject = request.getfixturevalue(name)
    before, weights = logits(subject), bits(subject)
    with change(subject.model):
        assert not torch.equal(logits(subject), before)
    assert torch.equal(logits(subject), before)
    after = bits(subject)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], weights[key]) for key in weights)


def test_an_ablation_that_fails_still_puts_the_cores_back(qtha: Subject) -> None:
    before = logits(qtha)
    with pytest.raises(RuntimeError), core_ablated(qtha.model):
        raise RuntimeError
    assert torch.equal(logits(qtha), before)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_tokens_get_the_q_of_others_of_the_same_pass(qtha: Subject, seed: int) -> None:
    adapter = next(iter(qtha_adapters(qtha.model).values()))
    z = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = adapter.core(z).flatten(0, 1)
        with core_shuffled(qtha.model, seed):
            moved = adapter.core(z).flatten(0, 1)
        with core_shuffled(qtha.model, seed):
            assert torch.equal(adapter.core(z).flatten(0, 1), moved)
    order = [int((plain - row).abs().sum(1).argmin()) for row in moved]
    assert sorted(order) == list(range(16))
    assert all(place != own for own, place in enumerate(order))
    assert torch.equal(moved, plain[order])


@contextmanager
def seen_shuffles(subject: Subject) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What the last adapter's core gives in each pass, (texts, tokens, r), and what is put in its place."""
    changed: Any = list(qtha_adapters(subject.model).values())[-1].core
    change, seen = changed.change, []

    def watched(q: Tensor) -> Tensor:
        seen.append((q, change(q)))
        return seen[-1][1]

    changed.change = watched
    yield seen


def rows_of(q: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, q.tolist()))


def check_shuffled(q: Tensor, moved: Tensor, is_token: Tensor) -> None:
    """Fail unless tokens alone have exchanged their q, and padding has its own."""
    assert torch.equal(moved[~is_token], q[~is_token])
    assert rows_of(moved[is_token]) == rows_of(q[is_token])
    is_changed = (moved != q).any(-1)
    assert torch.equal(is_changed, is_token)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_token_gets_the_q_of_padding_and_padding_keeps_its_own(qtha: Subject, side: str) -> None:
    ids = torch.tensor([[5, 9, 20, 31, 40, 8], [7, 13, 50, 61, 0, 0], [33, 2, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    with torch.no_grad(), core_shuffled(qtha.model), seen_shuffles(qtha) as seen:
        qtha.model(input_ids=ids, attention_mask=mask)
    ((q, moved),) = seen
    check_shuffled(q, moved, mask.bool())


@pytest.mark.parametrize("has_mask", [True, False])  # without padding `generate` gives none
def test_a_text_that_has_ended_gives_no_q_and_takes_none(qtha: Subject, has_mask: bool) -> None:
    pad = pad_token_id(qtha.tokenizer)
    texts, step = torch.tensor([[5, 9], [7, 13], [33, 2]]), torch.tensor([[20], [pad], [31]])
    mask = torch.ones(3, 3, dtype=torch.long) if has_mask else None
    with torch.no_grad(), core_shuffled(qtha.model, pad=pad), seen_shuffles(qtha) as seen:
        cache = qtha.model(input_ids=texts).past_key_values
        qtha.model(input_ids=step, attention_mask=mask, past_key_values=cache)
    check_shuffled(*seen[0], torch.ones(3, 2, dtype=torch.bool))
    check_shuffled(*seen[1], step != pad)


def test_answers_and_losses_are_shuffled_among_tokens_alone(qtha: Subject) -> None:
    pad = pad_token_id(qtha.tokenizer)
    masks: list[Tensor] = []

    def see(_model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        is_step = ids.shape[1] == 1
        masks.append(mask.bool() & (ids != pad) if is_step else mask.bool())

    handle = qtha.model.get_base_model().register_forward_pre_hook(see, with_kwargs=True)
    with core_shuffled(qtha.model, pad=pad), seen_shuffles(qtha) as seen:
        qtha.score(None)
    handle.remove()
    assert not all(mask.all() for mask in masks), "without any padding nothing is tested"
    for (q, moved), is_token in zip(seen, masks, strict=True):
        if is_token.sum() > 1:
            assert torch.equal(moved[~is_token], q[~is_token])
            assert rows_of(moved[is_token]) == rows_of(q[is_token])


def test_shuffling_a_single_token_changes_nothing(qtha: Subject) -> None:
    with torch.no_grad():
        before = qtha.model(input_ids=IDS[:1, :1]).logits
        with core_shuffled(qtha.model):
            torch.testing.assert_close(qtha.model(input_ids=IDS[:1, :1]).logits, before)


def test_a_core_whose_q_matrix_is_zero_carries_nothing(folder: Path) -> None:
    subject = make_subject(folder / "zero", QTHA)
    for adapter in qtha_adapters(subject.model).values():
        torch.nn.init.zeros_(adapter.Q)
    found = measure_branch(subject)
    assert found["share"] == found["varying_share"] == found["nonlinear_share"] == 0
    for change in ("ablated", "shuffled"):
        assert found[change]["accuracy_difference"] == found[change]["changed_answers"] == 0
        assert found[change]["test_loss_difference"] == pytest.approx(0, abs=1e-6)


def test_a_core_alone_carries_all(folder: Path) -> None:
    subject = make_subject(folder / "alone", QTHA)
    for adapter in qtha_adapters(subject.model).values():
        torch.nn.init.zeros_(adapter.C)
    found = measure_branch(subject)
    assert found["share"] == pytest.approx(1)
    assert found["varying_share"] == pytest.approx(1)


def test_a_linear_core_is_not_called_non_linear(folder: Path) -> None:
    subject = make_subject(folder / "mlp", {**QTHA, "core": "mlp"})
    bent = measure_branch(subject)["nonlinear_share"]
    for adapter in qtha_adapters(subject.model).values():
        # silu(x) is x / 2 for small x: a smaller network is a more linear one.
        adapter.core.W1.data.mul_(1e-3)
        adapter.core.W2.data.mul_(1e3)
    assert measure_branch(subject)["nonlinear_share"] < 0.02 * bent


def test_branch_shares_are_those_of_the_equations(qtha: Subject) -> None:
    rows: list[Tensor] = []
    name, adapter = next(iter(qtha_adapters(qtha.model).items()))
    handle = adapter.register_forward_hook(lambda _m, args, _o: rows.append(args[0].flatten(0, -2)))
    found = measure_branch(qtha)
    handle.remove()
    (shares,) = [one for one in found["modules"] if one["module"] == name]
    x = torch.cat(rows)[: found["n_rows"]]  # one example a row, none of them padded
    (now,) = adapter.contract([adapter], adapter.bind_circuits([adapter]))
    with torch.no_grad():
        z = x @ now.down.mT
        q = adapter.core(z)
        dense, core = (
            (z @ adapter.C.mT @ now.up).norm(dim=1),
            (q @ adapter.Q.mT @ now.up).norm(dim=1),
        )
    # Padding is taken out of the rows, and so the mean differs a little from this one.
    assert shares["share"] == pytest.approx(float((core / (core + dense)).mean()), abs=0.02)
    assert 0 < found["nonlinear_share"] < 1
    assert {one["layer"] for one in found["modules"]} == {0, 1}


def test_an_arm_without_a_core_says_so(lora: Subject, folder: Path) -> None:
    none = make_subject(folder / "none", {**QTHA, "core": "none"})
    assert "no core" in measure_branch(lora)["left_out"]
    assert "no core" in measure_branch(none)["left_out"]
