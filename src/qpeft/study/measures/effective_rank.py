"""How many directions the update of a layer really uses, on real inputs.

The update of a layer is what the adapter changes in its output: rows of (output with the adapter less output of
the base layer), one for each token. That can be observed of any PEFT method that wraps layers, whether it adds,
scales or rotates.
"""

import math
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from qpeft.study.measures.subject import Subject, layer_index, left_out
from qpeft.study.measures.token_rows import watch_tokens


def measure_effective_rank(subject: Subject) -> dict[str, Any]:
    """Return the effective rank of the updates on token rows of test examples.

    Returns:
        "mean" over the adapted modules, "by_layer" and "modules", see `qpeft.study.measures`; or why it was
        left out.

    References:
        O. Roy and M. Vetterli, EUSIPCO 2007.
    """
    layers = {name: m for name, m in subject.model.named_modules() if _wraps_layer(m)}
    ranks: dict[str, float] = {}
    sizes: dict[str, float] = {}

    def see(name: str, inputs: Tensor, outputs: Tensor) -> None:
        with torch.no_grad():
            before = layers[name].get_base_layer()(inputs)
        ranks[name], sizes[name] = _rank_of_update(before, outputs)

    watchers: Any = {module: partial(see, name) for name, module in layers.items()}
    n_rows = watch_tokens(subject, watchers, subject.spec.n_rows)
    modules = [
        {"module": name, "layer": layer_index(name), "rank": ranks[name], "size": sizes[name]}
        for name in layers
        if name in ranks
    ]
    if not modules:
        return left_out(f"'{subject.adapter.method}' does not change the output of single layers")
    by_layer = {
        str(index): _mean([m["rank"] for m in modules if m["layer"] == index])
        for index in sorted({m["layer"] for m in modules})
    }
    mean = _mean([m["rank"] for m in modules])
    return {"mean": mean, "by_layer": by_layer, "modules": modules, "n_rows": n_rows}


def effective_rank(matrix: Tensor, floor: float = 0.0) -> float:
    """Return exp(entropy of the normalised singular values) of a matrix, 0 for a matrix of zeros.

    Args:
        matrix: (rows, columns).
        floor: Singular values up to this count as zero.

    Example:
        >>> round(effective_rank(torch.eye(3)), 6)
        3.0
    """
    wide = matrix.double()
    square = wide @ wide.mT if len(wide) < wide.shape[1] else wide.mT @ wide
    squares = torch.linalg.eigvalsh(square).clamp(min=0)
    values = squares.sqrt()
    # The square root turns the rounding of the squares into 1e-8 of the largest value.
    values = values[values > max(floor, 1e-7 * float(values.max()))]
    if len(values) == 0:
        return 0.0
    shares = values / values.sum()
    return math.exp(-float((shares * shares.log()).sum()))


def _rank_of_update(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return the effective rank of what was added, and its size relative to what was there."""
    update = after.double() - before.double()
    level = float(before.double().square().mean().sqrt())
    # Outputs are rounded: a matrix of that noise has singular values up to this.
    noise = torch.finfo(after.dtype).eps * level * (math.sqrt(len(update)) + update.shape[1] ** 0.5)
    size = float(update.square().mean().sqrt())
    rounding = torch.finfo(after.dtype).eps * level * math.sqrt(update.numel())
    return effective_rank(compressed(update, rounding), noise), size / level if level else 0.0


def compressed(matrix: Tensor, tolerance: float, n_directions: int = 64) -> Tensor:
    """Return a smaller matrix with the same singular values, or the matrix itself if it has too many.

    Adapters' updates have a low rank, so a few random products find all their directions, and the eigenvalues of a
    large square are not needed.

    Args:
        matrix: (rows, columns).
        tolerance: What may be lost, as a Frobenius norm.
        n_directions: Rows of the smaller matrix.

    References:
        N. Halko, P.-G. Martinsson and J. A. Tropp, SIAM Review 53, 217 (2011), algorithm 4.1.
    """
    if min(matrix.shape) <= 2 * n_directions:
        return matrix
    generator = torch.Generator().manual_seed(0)  # always the same directions: the same measure
    random = torch.randn(matrix.shape[1], n_directions, generator=generator, dtype=matrix.dtype)
    directions, _ = torch.linalg.qr(matrix @ random.to(matrix.device))
    small = directions.mT @ matrix
    lost = matrix - directions @ small
    return small if float(lost.norm()) <= tolerance else matrix


def _wraps_layer(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), nn.Module)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
