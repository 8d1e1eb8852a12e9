"""A circuit template as a measured Qiskit circuit, and a batch of angles as PUBs of it.

Angle columns are elements of one `ParameterVector`. They are found again by their index and never by their place
in `circuit.parameters`, because a compiler drops parameters that cannot change a result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qpeft.circuits import Circuit, Gate, Input


@dataclass(frozen=True)
class CompiledTemplate:
    """A measured circuit in a device's own gates.

    Args:
        circuit: A `qiskit.QuantumCircuit`; qubit q of the template is measured into bit q of register "c".
        parameters: Its parameters.
        columns: The angle column of each parameter.
    """

    circuit: Any
    parameters: tuple[Any, ...]
    columns: tuple[int, ...]

    def values(self, angles: np.ndarray) -> np.ndarray:
        """Return (n_circuits, n_parameters) from angles (n_circuits, n_angles), radians."""
        return angles[:, list(self.columns)]

    def pubs(
        self, angles: np.ndarray, shots: int, *, is_joined: bool
    ) -> list[tuple[Any, Any, int]]:
        """Return the PUBs for all rows of angles (n_circuits, n_angles): one, if there is a parameter to sweep.

        Args:
            angles: Radians.
            shots: Of each circuit.
            is_joined: Whether circuits without parameters are drawn in one run of n_circuits x shots, which a
                reader cuts, or as n_circuits PUBs. With a fixed seed, equal PUBs would give equal draws.
        """
        if self.parameters:
            return [(self.circuit, {self.parameters: self.values(angles)}, shots)]
        if is_joined:
            return [(self.circuit, None, shots * len(angles))]
        return [(self.circuit, None, shots)] * len(angles)


def make_compiler(backend: Any, optimization_level: int, seed: int) -> Any:
    """Return the pass manager that compiles for a backend; making one takes longer than a small circuit.

    Args:
        backend: A Qiskit `BackendV2`; None leaves gates as they are.
        optimization_level: 0 to 3, of Qiskit's preset pass managers.
        seed: Seed of placement and routing.
    """
    from qiskit.transpiler import PassManager, generate_preset_pass_manager

    if backend is None:
        return PassManager()
    return generate_preset_pass_manager(
        optimization_level=optimization_level, backend=backend, seed_transpiler=seed
    )


def compile_template(circuit: Circuit, compiler: Any) -> CompiledTemplate:
    """Translate a template and compile it.

    Args:
        circuit: The template.
        compiler: From `make_compiler`.
    """
    compiled = compiler.run(to_qiskit(circuit))
    parameters = tuple(compiled.parameters)
    return CompiledTemplate(compiled, parameters, tuple(each.index for each in parameters))


def to_qiskit(circuit: Circuit) -> Any:
    """Return a measured `qiskit.QuantumCircuit` with one parameter for each angle column.

    Args:
        circuit: The template; its inputs are parameters 0 to n_inputs - 1, its weights follow.
    """
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
    from qiskit.circuit import ParameterVector

    angles = ParameterVector("angle", circuit.n_inputs + circuit.n_weights)
    bits = ClassicalRegister(circuit.n_qubits, "c")
    drawn = QuantumCircuit(QuantumRegister(circuit.n_qubits, "q"), bits, name=circuit.name)
    for gate in circuit.gates:
        _append(drawn, gate, angles, circuit.n_inputs)
    drawn.measure(range(circuit.n_qubits), bits)
    return drawn


def _append(drawn: Any, gate: Gate, angles: Any, n_inputs: int) -> None:
    from qiskit.circuit import library

    if gate.angle is None:
        drawn.append(getattr(library, _GATES[gate.name])(), gate.qubits)
        return
    angle = angles[gate.angle.index + (0 if isinstance(gate.angle, Input) else n_inputs)]
    if gate.name == "CRZ":
        # Aer 0.18 sweeps no angle of a controlled rotation: it takes a wrong one without a word (qiskit-aer
        # issues 2391 and 2403). So the rotation is spelled out here, as any chip's compiler would do.
        control, target = gate.qubits
        drawn.rz(angle / 2, target)
        drawn.cx(control, target)
        drawn.rz(-angle / 2, target)
        drawn.cx(control, target)
    else:
        drawn.append(getattr(library, _GATES[gate.name])(angle), gate.qubits)


_GATES = {
    "H": "HGate",
    "RX": "RXGate",
    "RY": "RYGate",
    "RZ": "RZGate",
    "CNOT": "CXGate",
    "CZ": "CZGate",
    "RZZ": "RZZGate",
}
