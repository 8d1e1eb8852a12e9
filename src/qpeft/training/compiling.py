"""torch.compile for training: each decoder layer is compiled in its place, for as long as it is wanted.

Only `forward` of the repeated layers is replaced, and put back afterwards. So the model stays the same object, its
keys stay as they are, our hooks around the model run outside of every graph, and layers that are alike share one
graph: a model of 30 layers compiles about as long as one of 2. Generation and evaluation run the plain model.

The first batch is compiled for its own size; a size that changes then becomes a variable of a second graph. The
first layer, whose input no gradient reaches, and batches of one row have graphs of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpeft.errors import ConfigError


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Run a model's repeated layers compiled, each compiled on its first use, until the block ends.

    Args:
        model: The model that is trained, with its adapters; on the device where it will run.

    Raises:
        ConfigError: It runs on a CPU and there is no C++ compiler.
    """
    check_compiler(next(model.parameters()).device)
    layers = repeated_layers(model)
    try:
        for layer in layers:
            layer.forward = torch.compile(layer.forward)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
        # The next adapter has the same layers' code, and a function has room for 8 graphs.
        torch.compiler.reset()


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError if code for a CPU shall be compiled and there is no C++ compiler."""
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "training.torch_compile: true needs a C++ compiler on a CPU, and there is none in $CXX or called g++. "
            "Install one (Debian, Ubuntu: apt install g++), or set torch_compile: false."
        ) from error


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of every outermost list of modules of one class; without one, the model."""
    return _in_lists(model) or [model]


def _in_lists(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        is_list = isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1
        found += child.children() if is_list else _in_lists(child)
    return found
