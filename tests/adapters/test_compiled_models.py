"""An adapted model under torch.compile gives the same numbers."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from tiny_bases import TOKENS, adapted, tiny_llama
from torch import nn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the compiler, about itself
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)  # the compiler cannot trace the shape checks
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_compiled_model_trains_as_the_plain_one() -> None:
    model = adapted(tiny_llama(), target_modules=["q_proj"]).train()
    compiled = torch.compile(model, backend="aot_eager")
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        loss = run(input_ids=TOKENS, labels=TOKENS).loss
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_a_compiled_model_sees_changed_weights() -> None:
    base = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    model = adapted(base, target_modules=["0", "2"])
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(3, 12)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(compiled(x), model(x))
            for parameter in model.parameters():
                parameter.mul_(1.1)


def test_graph_breaks_of_an_adapted_layer_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Choosing and preparing the circuit's form breaks the graph, but not once for each gate."""
    breaks = []
    for n_layers in (1, 3):
        torch._dynamo.reset()
        model = adapted(nn.Sequential(nn.Linear(12, 12)), target_modules=["0"], n_layers=n_layers)
        breaks.append(torch._dynamo.explain(model)(torch.randn(3, 12)).graph_break_count)
    with capsys.disabled():
        print(f"graph breaks of one adapted layer: {breaks} for 1 and 3 circuit layers")
    assert max(breaks) < 30
