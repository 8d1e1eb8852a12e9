"""An adapted model under torch.compile gives the same numbers, and its layers are whole graphs."""

from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from tiny_bases import TOKENS, adapted, tiny_llama
from torch import Tensor, nn
from torch._dynamo.utils import counters

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
CORES: dict[str, dict[str, Any]] = {
    "circuit": {"r": 4},
    "two circuits": {"r": 8, "groups": 2},
    "8 qubits": {"r": 8},
    "several uploads": {"r": 4, "n_layers": 2},
    "surrogate": {"r": 4, "gradient": "surrogate"},
    **{
        core: {"r": 4, "core": core}
        for core in ("none", "constant", "mlp", "product", "frozen", "fourier")
    },
}
FAST = ("circuit", "none")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    jaxtyping.config.update("jaxtyping_disable", True)  # the compiler cannot trace the shape checks
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def gradients(model: nn.Module, run: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad()
    run().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name in FAST else pytest.mark.slow)
        for name, options in CORES.items()
    ],
)
def test_an_adapted_layer_is_one_graph_with_the_gradients_of_the_plain_one(
    options: dict[str, Any],
) -> None:
    base = nn.Sequential(nn.Linear(12, 12))
    model = adapted(base, target_modules=["0"], **options).train()
    x = torch.randn(3, 12)
    plain = gradients(model, lambda: model(x))
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    base[0].forward = torch.compile(base[0].forward, backend=count, fullgraph=True)
    for _ in range(2):  # what is prepared in each pass anew is no reason to compile again
        found = gradients(model, lambda: model(x))
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [CORES["circuit"], CORES["8 qubits"]], ids=["4", "8"])
def test_a_compiled_model_trains_as_the_plain_one(options: dict[str, Any]) -> None:
    model = adapted(tiny_llama(), target_modules=["q_proj"], **options).train()
    compiled = torch.compile(model, backend="aot_eager")
    found, plain = (
        gradients(model, lambda run=run: run(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss)
        for run in (compiled, model)
    )
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert all("_prepare" in reason for reason in counters["graph_break"])


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_compiled_model_trains_under_gradient_checkpointing(use_reentrant: bool) -> None:
    model = adapted(tiny_llama(), target_modules=["q_proj"]).train()
    model.enable_input_require_grads()
    plain = gradients(model, lambda: model(input_ids=TOKENS, labels=TOKENS).loss)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    for layer in model.get_base_model().model.layers:
        layer.forward = torch.compile(layer.forward, backend="aot_eager")
    found = gradients(model, lambda: model(input_ids=TOKENS, labels=TOKENS).loss)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
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
