"""The hardware figures of docs/hardware.md: what truncation loses, how circuits pack, what a simulated chip costs.

    python benchmarks/hardware.py            prints Markdown tables
    python benchmarks/hardware.py --quick    fewer repetitions

Times are given as ratios measured side by side in one run.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from qpeft.backends import CircuitBatch, get_backend, get_remote
from qpeft.circuits import build_ansatz, z_on_each
from qpeft.layers import Evaluation, QuantumLayer
from qpeft.layers.surrogate import measure_surrogates, n_surrogate_circuits, truncation_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    n_seeds, n_rounds = (2, 3) if parser.parse_args().quick else (5, 9)
    torch.set_num_threads(1)
    print("## What a truncated surrogate loses\n")
    print_truncation(n_seeds)
    print("\n## Packing 81 circuits of four qubits\n")
    print_packing()
    print("\n## A training step of one layer of four qubits, 1024 rows\n")
    print_steps(n_rounds)


def print_truncation(n_seeds: int) -> None:
    exact = get_backend("exact")
    print("| qubits | all terms | k = 1 | k = 2 | k = 3 |\n|---|---|---|---|---|")
    for n in (4, 6, 8):
        circuit, observables = build_ansatz("reupload", n, 1), z_on_each(n)
        cells = []
        for weight in range(1, min(n, 4)):
            errors = []
            for seed in range(n_seeds):
                torch.manual_seed(seed)
                weights = 2 * torch.pi * torch.rand(1, 1, circuit.n_weights, dtype=torch.float64)
                (found,) = measure_surrogates(
                    exact, circuit, observables, weights, "straight_through", weight
                )
                errors.append(truncation_error(circuit, observables, found, exact, weights[0]))
            n_circuits = n_surrogate_circuits(n, 1, weight)
            cells.append(f"{statistics.mean(errors):.3f} ({n_circuits:,} circuits)")
        cells += [""] * (3 - len(cells))
        print(f"| {n} | {n_surrogate_circuits(n):,} circuits, exact | {' | '.join(cells)} |")


def print_packing() -> None:
    circuit = build_ansatz("reupload", 4, 1)
    angles = np.zeros((81, circuit.n_inputs + circuit.n_weights))
    angles += np.arange(81)[:, None]
    print("| how | programs | circuits a program |\n|---|---|---|")
    for words, options in (
        ("one by one", {"is_packed": False}),
        ("side by side", {}),
        ("with an idle ring", {"has_idle_ring": True}),
    ):
        requests = get_remote("emulator", options).prepare(CircuitBatch(circuit, angles, 1000))
        n_programs = sum(request.n_programs for request in requests)
        print(f"| {words} | {n_programs} | {81 / n_programs:.1f} |")


def print_steps(n_rounds: int) -> None:
    inputs = torch.randn(1024, 4)
    layers = {
        "exact": QuantumLayer(4),
        "exact, as a surrogate": QuantumLayer(
            4, evaluation=Evaluation(gradient="surrogate", angle_gradient="straight_through")
        ),
        "noisy": QuantumLayer(4, evaluation=Evaluation("noisy")),
    }
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(n_rounds + 1):  # the first round compiles
        for name, layer in layers.items():
            times[name].append(timed(lambda layer=layer: step(layer, inputs)))
    base = statistics.median(times["exact"][1:])
    print("| backend | time, exact = 1 |\n|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found[1:]) / base:.2f} |")


def step(layer: QuantumLayer, inputs: torch.Tensor) -> None:
    rows = inputs.clone().requires_grad_()
    layer(rows).square().sum().backward()


def timed(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
