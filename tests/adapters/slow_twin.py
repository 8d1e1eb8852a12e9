"""The slow twin of `QthaAdapter`: the method's equations in numpy, one row at a time, in float64.

    a = MPO_A x,  z = A a,  q = core(z),  h = C z + Q q  or  (C z) * q,  update = (alpha / r) MPO_B B h

It reads an adapter's state dict and its configuration, and shares with the adapter only the ansatz and
the reference simulator.
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qpeft import QthaConfig
from qpeft.backends import get_backend
from qpeft.circuits import build_ansatz, z_on_each

Array = NDArray[np.float64]


def update(
    state: dict[str, torch.Tensor], config: QthaConfig, d_in: int, d_out: int, rows: Array
) -> Array:
    """Return the update (n, d_out) for rows (n, d_in)."""
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    r, width = weights["A"].shape
    W_A = dense(cores_of(weights, "down"))[:d_in, :width]
    W_B = dense(cores_of(weights, "up"))[:d_out, :width]
    alpha = 2 * r if config.alpha is None else config.alpha
    updates = []
    for x in rows:
        z = weights["A"] @ (W_A.T @ x)
        h = weights["C"] @ z
        if config.core != "none":
            q = core_of(weights, config, z)
            h = h * q if config.fusion == "hadamard" else h + weights["Q"] @ q
        updates.append(alpha / r * (W_B @ (weights["B"] @ h)))
    return np.stack(updates)


def cores_of(weights: dict[str, Array], name: str) -> list[Array]:
    keys = [key for key in weights if key.startswith(f"{name}.cores.")]
    return [weights[f"{name}.cores.{i}"] for i in range(len(keys))]


def dense(cores: list[Array]) -> Array:
    """Return W[(j1..jk), (i1..ik)] = core1[j1, i1] ... corek[jk, ik] by the sum over all bonds."""
    k = len(cores)
    bonds, wide, inner = "abcdefgh", "jklmnopq", "rstuvwxy"
    terms = ",".join(f"{bonds[i]}{wide[i]}{inner[i]}{bonds[i + 1]}" for i in range(k))
    tensor = np.einsum(f"{terms}->{wide[:k]}{inner[:k]}", *cores)
    n_wide = int(np.prod([core.shape[1] for core in cores]))
    return tensor.reshape(n_wide, -1)


def core_of(weights: dict[str, Array], config: QthaConfig, z: Array) -> Array:
    """Return q for one row z, group by group."""
    groups = np.split(mapped(z, config.angle_map), config.groups)
    return np.concatenate(
        [core_of_group(weights, config, g, part) for g, part in enumerate(groups)]
    )


def mapped(z: Array, angle_map: str) -> Array:
    if angle_map == "tanh":
        return np.pi * np.tanh(z)
    return z / np.sqrt(np.mean(z**2)) if angle_map == "rms" else z


def core_of_group(weights: dict[str, Array], config: QthaConfig, group: int, z: Array) -> Array:
    if config.core == "constant":
        return np.split(weights["core.values"], config.groups)[group]
    if config.core == "mlp":
        hidden = z @ weights["core.W1"][group]
        return (hidden / (1 + np.exp(-hidden))) @ weights["core.W2"][group]
    circuit = build_ansatz(
        config.ansatz, len(z), config.n_layers, is_entangled=config.core != "product"
    )
    if config.core == "fourier":
        features = [
            fourier_term(choice, z) for choice in fourier_choices(circuit.n_uploads(), len(z))
        ]
        return np.array(features) @ weights["core.coefficients"][group]
    bound = get_backend("reference").bind(
        circuit, z_on_each(len(z)), torch.from_numpy(weights["core.angles"][group])
    )
    return bound(torch.from_numpy(z)[None])[0].numpy()


def fourier_choices(n_uploads: int, n: int) -> Any:
    """Return all products of one function for each input: 1, cos z, sin z, cos 2z, sin 2z, ..."""
    return product(range(2 * n_uploads + 1), repeat=n)


def fourier_term(choice: tuple[int, ...], z: Array) -> float:
    value = 1.0
    for kind, angle in zip(choice, z, strict=True):
        frequency = (kind + 1) // 2
        value *= np.cos(frequency * angle) if kind % 2 or kind == 0 else np.sin(frequency * angle)
    return float(value)
