"""What an ansatz can do before any training: expressibility, entangling capability, gradient variance.

All angles are drawn uniformly from (-pi, pi), in which a fresh adapter's angles lie: the trained ones, and the
data as well, each input once however often it enters.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qpeft.circuits import Circuit, build_ansatz
from qpeft.study.measures.states import final_states
from qpeft.study.results import AnsatzRow

N_BINS = 75
"""Of the histogram of fidelities, as in arXiv 1905.10876."""

_CHUNK = 2**14  # numbers in the states of the circuits that are differentiated at once


def measure_ansatz(
    name: str,
    n_qubits: int,
    n_layers: int,
    *,
    n_samples: int = 1000,
    seed: int = 0,
    is_entangled: bool = True,
) -> AnsatzRow:
    """Measure a circuit of the catalogue.

    Args:
        name: A key of `qpeft.circuits.ANSATZE`.
        n_qubits: Of one circuit.
        n_layers: Circuit layers L.
        n_samples: Random circuits; the fidelities are those of all their pairs.
        seed: Of the angles.
        is_entangled: False leaves the rings out, which the row's name then says.

    Raises:
        ConfigError: There is no such ansatz or size.

    Example:
        >>> measure_ansatz("reupload", 2, 1, n_samples=50, is_entangled=False).name
        'reupload without rings'
    """
    circuit = build_ansatz(name, n_qubits, n_layers, is_entangled=is_entangled)
    label = name if is_entangled else f"{name} without rings"
    with torch.no_grad():
        inputs, weights = _random_angles(circuit, n_samples, seed)
        states = final_states(circuit, inputs, weights)
    return AnsatzRow(
        label,
        n_qubits,
        n_layers,
        expressibility=expressibility(states),
        entangling_capability=float(meyer_wallach(states).mean()),
        gradient_variance=gradient_variance(circuit, inputs, weights),
    )


def measure_ansatzes(
    names: Sequence[str],
    n_qubits: Sequence[int],
    n_layers: Sequence[int],
    *,
    n_samples: int = 1000,
    seed: int = 0,
    is_entangled: bool = True,
) -> tuple[AnsatzRow, ...]:
    """Measure every combination, for example the gradient variance against the number of qubits."""
    return tuple(
        measure_ansatz(name, n, depth, n_samples=n_samples, seed=seed, is_entangled=is_entangled)
        for name in names
        for n in n_qubits
        for depth in n_layers
    )


def expressibility(states: Tensor) -> float:
    """Return the divergence of the states' fidelities from those of Haar-random states, in nats.

    The fidelities of all pairs are taken, not those of separate pairs: the same distribution, with less noise.

    Args:
        states: (rows, 2^n), of random angles; two rows or more.

    References:
        S. Sim, P. D. Johnson, A. Aspuru-Guzik, arXiv 1905.10876, eq. 9; Haar fidelities have the density
        (N - 1) (1 - F)^(N - 2), N = 2^n.
    """
    overlaps = (states.conj() @ states.mT).abs().square()
    first, second = torch.triu_indices(len(states), len(states), offset=1)
    # Rounding must not push equal states beyond the last bin, nor orthogonal ones below the first.
    bins = (overlaps[first, second] * N_BINS).floor().clamp(0, N_BINS - 1).long()
    seen = torch.bincount(bins, minlength=N_BINS).double() / len(bins)
    edges = torch.linspace(0, 1, N_BINS + 1, dtype=torch.float64)
    # The logarithm of (1 - l)^(N - 1) - (1 - u)^(N - 1), which is far too small a number near F = 1.
    power = states.shape[1] - 1
    low, high = power * torch.log1p(-edges[:-1]), power * torch.log1p(-edges[1:])
    expected = low + torch.log1p(-torch.exp(high - low))
    there = seen > 0
    return float((seen[there] * (seen[there].log() - expected[there])).sum())


def meyer_wallach(states: Tensor) -> Tensor:
    """Return the entanglement of each state, 2 (1 - mean purity of a qubit), in [0, 1].

    Args:
        states: (rows, 2^n), normalised.

    References:
        D. A. Meyer and N. R. Wallach, quant-ph/0108104, in the form of G. K. Brennen, quant-ph/0305094.
    """
    n_qubits = states.shape[1].bit_length() - 1
    purities = []
    for qubit in range(n_qubits):
        split = states.unflatten(1, (2**qubit, 2, -1)).transpose(1, 2).flatten(2)  # (rows, 2, rest)
        reduced = split @ split.mH
        purities.append(reduced.abs().square().sum(dim=(1, 2)))
    return 2 * (1 - torch.stack(purities).mean(0)).clamp(min=0)


def gradient_variance(circuit: Circuit, inputs: Tensor, weights: Tensor) -> float:
    """Return the variance of d<Z_0>/d(angle) over rows of angles, its mean over the trained angles.

    Args:
        circuit: The circuit.
        inputs: (rows, n_inputs), radians.
        weights: (rows, n_weights), radians.

    References:
        J. R. McClean et al., arXiv 1803.11173.
    """
    n_states = 2**circuit.n_qubits
    signs = torch.ones(n_states, dtype=torch.float64)
    signs[n_states // 2 :] = -1  # Z on qubit 0, the leftmost bit
    size = max(1, _CHUNK // n_states)
    gradients = []
    for data, trained in zip(inputs.split(size), weights.split(size), strict=True):
        angles = trained.detach().requires_grad_()
        chances = torch.view_as_real(final_states(circuit, data, angles)).square().sum(-1)
        # The sum over rows: each row of angles gets the gradient of its own circuit.
        (gradient,) = torch.autograd.grad((chances @ signs).sum(), angles)
        gradients.append(gradient)
    return float(torch.cat(gradients).var(dim=0, correction=1).mean())


def _random_angles(circuit: Circuit, n_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n_rows, circuit.n_inputs + circuit.n_weights)
    angles = math.pi * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
    return angles[:, : circuit.n_inputs], angles[:, circuit.n_inputs :]
