"""The noise has the calibration's fidelities, by qiskit's own measures, and is a channel for every scale."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from qiskit.quantum_info import PTM, Choi, Kraus, SuperOp, average_gate_fidelity
from qiskit_aer.noise import depolarizing_error, thermal_relaxation_error
from torch import Tensor

from qpeft.chips.calibration import QubitQuality, load_calibration
from qpeft.chips.channels import (
    PauliStates,
    average_fidelity,
    cz_channel,
    depolarising_channel,
    kronecker_channel,
    relaxation_channel,
    rotation_channel,
    u3_channel,
)
from qpeft.chips.noise import NoiseModel, idle_times
from qpeft.errors import ConfigError

WUKONG = load_calibration("wukong")
# Its relaxation is far better than its gates, so that most of the error is depolarising.
QUIET = dataclasses.replace(
    WUKONG,
    qubits={n: dataclasses.replace(q, t2_us=1.5 * q.t1_us) for n, q in WUKONG.qubits.items()},
)


def ptm(channel: object) -> np.ndarray:
    return np.asarray(PTM(channel).data).real


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_same(ours: Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("t1", "t2", "ns"), [(12.0, 1.4, 30.0), (3.0, 5.9, 400.0), (5.0, 5.0, 0.0)]
)
def test_relaxation_is_that_of_aer(t1: float, t2: float, ns: float) -> None:
    theirs = ptm(SuperOp(thermal_relaxation_error(1000 * t1, 1000 * t2, ns)))
    assert_same(relaxation_channel(tensor(t1), tensor(t2), tensor(ns))[0], theirs)


@pytest.mark.parametrize("n_qubits", [1, 2])
def test_depolarising_is_that_of_aer(n_qubits: int) -> None:
    theirs = ptm(SuperOp(depolarizing_error(0.13, n_qubits)))
    assert_same(depolarising_channel(0.13, n_qubits), theirs)


def test_channels_of_gates_are_those_of_qiskit() -> None:
    from qiskit.circuit.library import CZGate, HGate, RXGate, RYGate, RZGate, UGate

    for axis, gate in (("X", RXGate), ("Y", RYGate), ("Z", RZGate)):
        assert_same(rotation_channel(axis, tensor(0.7))[0], ptm(SuperOp(gate(0.7))))
    assert_same(rotation_channel("H", tensor(0.7))[0], ptm(SuperOp(HGate())))
    assert_same(u3_channel(tensor(0.7, -1.1, 2.3)), ptm(SuperOp(UGate(0.7, -1.1, 2.3))))
    assert_same(cz_channel(), ptm(SuperOp(CZGate())))


def test_the_first_channel_of_a_pair_is_the_leftmost() -> None:
    first, second = thermal_relaxation_error(9.0, 3.0, 1.0), thermal_relaxation_error(5.0, 7.0, 1.0)
    theirs = ptm(SuperOp(first).tensor(SuperOp(second)))
    ours = kronecker_channel(torch.tensor(ptm(SuperOp(first))), torch.tensor(ptm(SuperOp(second))))
    assert_same(ours, theirs)


def test_states_take_channels_on_any_qubits_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4**3, 5, generator=generator, dtype=torch.float64)
    one = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    two = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64)
    ours = PauliStates(states)
    ours.apply(two, (2, 0))
    ours.apply(one, (1,))
    cube = two.reshape(2, 4, 4, 4, 4)  # (batch, new 2, new 0, old 2, old 0)
    expected = torch.einsum("zcaki,zbj,zijkm->zabcm", cube, one, states.reshape(2, 4, 4, 4, 5))
    torch.testing.assert_close(ours.values(), expected.reshape(2, 64, 5))


@pytest.mark.parametrize("chip", [WUKONG, QUIET], ids=["wukong", "quiet"])
def test_gates_have_the_fidelity_of_the_calibration(chip: object) -> None:
    noise = NoiseModel(chip)  # type: ignore[arg-type]
    for qubit, quality in list(WUKONG.qubits.items())[::7]:
        found = average_gate_fidelity(PTM(noise.after_turn(qubit).numpy()))
        assert found == pytest.approx(quality.gate_fidelity, abs=1e-12)
    for pair, fidelity in list(WUKONG.alive_couplers.items())[::9]:
        channel = noise.after_cz(*pair)
        assert average_gate_fidelity(PTM(channel.numpy())) == pytest.approx(fidelity, abs=1e-12)
        assert average_fidelity(channel) == pytest.approx(fidelity, abs=1e-12)


def test_relaxation_lasts_as_long_as_the_gate_where_the_fidelity_allows() -> None:
    """Then the noise is Aer's relaxation for the whole gate and its depolarising, whatever the probability."""
    quality = QUIET.qubits[0]
    relaxed = SuperOp(thermal_relaxation_error(1000 * quality.t1_us, 1000 * quality.t2_us, 30.0))
    before = (
        2 * average_gate_fidelity(relaxed) * 1.5 - 1
    ) / 2  # process fidelity, (d + 1) F - 1 over d
    wanted = (3 * quality.gate_fidelity - 1) / 2
    probability = (before - wanted) / (before - 0.25)
    assert 0.001 < probability < 0.02
    theirs = relaxed.compose(SuperOp(depolarizing_error(probability, 1)))
    assert_same(NoiseModel(QUIET).after_turn(0), ptm(theirs))


def test_nothing_depolarises_where_relaxation_alone_is_worse_than_the_gate() -> None:
    channel = NoiseModel(WUKONG).after_turn(0)
    quality = WUKONG.qubits[0]
    time = -1000 * quality.t1_us * math.log(channel[3, 3])
    assert 0 < time < WUKONG.gate_ns
    theirs = thermal_relaxation_error(1000 * quality.t1_us, 1000 * quality.t2_us, time)
    assert_same(channel, ptm(SuperOp(theirs)))


def test_the_channel_of_a_pair_turns_with_its_qubits() -> None:
    noise = NoiseModel(WUKONG)
    swapped = noise.after_cz(13, 1).reshape(4, 4, 4, 4).permute(1, 0, 3, 2).reshape(16, 16)
    torch.testing.assert_close(swapped, noise.after_cz(1, 13))
    assert not torch.allclose(noise.after_cz(13, 1), noise.after_cz(1, 13))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 20.0, 500.0])
def test_the_noise_is_a_channel_for_every_scale(scale: float) -> None:
    for chip in (WUKONG, QUIET):
        noise = NoiseModel(chip, scale)
        for channel in (noise.after_turn(3), noise.after_cz(3, 4), noise.waiting([3], 500.0)[0]):
            assert Choi(PTM(channel.numpy())).is_cptp(atol=1e-9)
        confusion = noise.readout([3, 4])
        torch.testing.assert_close(confusion.sum(dim=1), torch.ones(2, 2, dtype=torch.float64))
        assert (confusion.diagonal(dim1=1, dim2=2) >= 0.5).all()


def test_scale_zero_is_a_perfect_chip_and_small_scales_are_linear() -> None:
    noise = NoiseModel(WUKONG, 0.0)
    assert torch.equal(noise.after_turn(3), torch.eye(4, dtype=torch.float64))
    assert torch.equal(noise.after_cz(3, 4), torch.eye(16, dtype=torch.float64))
    assert torch.equal(noise.readout([3])[0], torch.eye(2, dtype=torch.float64))
    errors = [1 - average_fidelity(NoiseModel(WUKONG, s).after_cz(3, 4)) for s in (0.001, 0.002)]
    assert errors[1] == pytest.approx(2 * errors[0], rel=1e-3)


def test_the_confusion_matrix_is_read_by_column_of_the_true_state() -> None:
    quality = WUKONG.qubits[5]
    expected = [
        [quality.readout_0, 1 - quality.readout_1],
        [1 - quality.readout_0, quality.readout_1],
    ]
    torch.testing.assert_close(NoiseModel(WUKONG).readout([5])[0].tolist(), expected)


def test_waiting_can_be_switched_off() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.equal(NoiseModel(WUKONG, has_idle_noise=False).waiting([0], 90.0)[0], eye)
    assert not torch.allclose(NoiseModel(WUKONG).waiting([0], 90.0)[0], eye)


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale"):
        NoiseModel(WUKONG, scale)


def test_a_hopeless_gate_depolarises_fully_and_stays_a_channel() -> None:
    worst = dataclasses.replace(
        WUKONG, qubits={**WUKONG.qubits, 0: QubitQuality(100.0, 100.0, 0.2, 0.9, 0.9)}
    )
    channel = NoiseModel(worst).after_turn(0)
    assert Choi(PTM(channel.numpy())).is_cptp(atol=1e-9)
    torch.testing.assert_close(channel, torch.diag(tensor(1.0, 0.0, 0.0, 0.0)))


def test_an_as_soon_as_possible_schedule_knows_who_waits() -> None:
    #   qubit 0   U3 CZ--------- CZ01      0-30, 30-70, and 70-110
    #   qubit 1   U3 U3 (10) CZ01          0-30, 30-60, waits 10
    #   qubit 2      CZ02                  first used at 30: nothing before that counts
    ops = [(0,), (0, 2), (1,), (1,), (1, 0), (2,)]
    before, at_end = idle_times(ops, (30.0, 40.0), 4)
    assert before == [(0.0,), (0.0, 0.0), (0.0,), (0.0,), (10.0, 0.0), (0.0,)]
    assert at_end == [0.0, 0.0, 10.0, 0.0]


def test_the_ground_state_does_not_relax() -> None:
    ground = tensor(1.0, 0.0, 0.0, 1.0)
    torch.testing.assert_close(NoiseModel(WUKONG).waiting([0], 1e5)[0] @ ground, ground)
    kraus = Kraus(PTM(NoiseModel(WUKONG).waiting([0], 1e9)[0].numpy()))
    np.testing.assert_allclose(
        sum(k @ np.diag([0, 1]) @ k.conj().T for k in kraus.data), np.diag([1, 0]), atol=1e-9
    )
