"""A calibration is checked, survives a file, drifts as a real one does, and the packaged one is what it says."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qpeft.chips.calibration import Calibration, QubitQuality, are_neighbours, load_calibration
from qpeft.chips.synthetic import WUKONG_SEED, draw_calibration
from qpeft.errors import ConfigError

WUKONG = load_calibration("wukong")


def changed(change: Callable[[dict[str, Any]], None]) -> Calibration:
    """Return Wukong's calibration after a change of its JSON data."""
    data = WUKONG.to_json()
    change(data)
    return Calibration.from_json(data)


def test_the_packaged_file_is_the_drawn_calibration() -> None:
    assert draw_calibration(WUKONG_SEED) == WUKONG


def test_the_packaged_file_says_that_it_is_no_measurement() -> None:
    assert "Synthetic" in WUKONG.source
    assert "not a measurement" in WUKONG.source


def test_the_packaged_chip_has_the_size_and_the_ranges_of_wukong() -> None:
    assert (WUKONG.n_qubits, len(WUKONG.qubits), len(WUKONG.couplers)) == (72, 72, 126)
    assert 1 <= len(WUKONG.couplers) - len(WUKONG.alive_couplers) <= 8
    for q in WUKONG.qubits.values():
        assert 0.995 <= q.gate_fidelity <= 0.997
        assert 0.92 <= (q.readout_0 + q.readout_1) / 2 <= 0.94
        assert q.readout_0 > q.readout_1
        assert 1.1 <= q.t2_us <= 1.8
        assert 10 <= q.t1_us <= 20
    assert all(0.952 <= fidelity <= 0.983 for fidelity in WUKONG.alive_couplers.values())


def test_couplers_join_exactly_the_neighbours_of_the_grid() -> None:
    expected = {(a, b) for a in range(72) for b in range(a, 72) if are_neighbours((6, 12), a, b)}
    assert set(WUKONG.couplers) == expected
    assert {pair for pair in expected if 13 in pair} == {(1, 13), (12, 13), (13, 14), (13, 25)}
    assert not are_neighbours((6, 12), 11, 12)  # the end of a row and the start of the next


def test_cz_fidelity_knows_a_pair_in_both_orders_and_no_other() -> None:
    assert WUKONG.cz_fidelity(1, 0) == WUKONG.cz_fidelity(0, 1) == WUKONG.couplers[0, 1]
    assert WUKONG.cz_fidelity(0, 2) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["qubits"]["3"].update(gate_fidelity=1.01), r"qubit 3: gate_fidelity.*1\.01"),
        (lambda d: d["qubits"]["3"].update(readout_1=-0.1), r"qubit 3: readout_1.*-0\.1"),
        (lambda d: d["qubits"]["3"].update(gate_fidelity=math.nan), r"qubit 3.*nan"),
        (lambda d: d["qubits"]["3"].update(t1_us=1.0, t2_us=2.5), r"qubit 3: t2_us = 2\.5"),
        (lambda d: d["qubits"]["3"].update(t1_us=0.0), r"qubit 3: t1_us.*dead"),
        (lambda d: d["qubits"].update({"72": d["qubits"]["0"]}), r"qubit 72.*0 to 71"),
        (lambda d: d["couplers"].update({"0-1": 97.0}), r"coupler 0-1.*97.*percentage"),
        (lambda d: d["couplers"].update({"0-2": 0.97}), r"coupler 0-2.*not neighbours"),
        (lambda d: d["couplers"].update({"11-12": 0.97}), r"coupler 11-12.*not neighbours"),
        (lambda d: d["couplers"].update({"1-0": 0.97}), r"coupler 1-0.*smaller"),
        (lambda d: d["qubits"].pop("0"), r"coupler 0-1.*qubit 0 is dead"),
        (lambda d: d.update(gate_ns=0.0), r"gate_ns.*0\.0"),
        (lambda d: d.update(shape=[0, 12]), r"shape.*\(0, 12\)"),
        (lambda d: d.update(taken_at="yesterday"), r"taken_at.*yesterday"),
        (lambda d: d.update(taken_at="2025-01-01T00:00:00+02:00"), r"taken_at.*UTC"),
        (lambda d: d.pop("couplers"), r"field 'couplers'"),
        (lambda d: d["qubits"]["3"].pop("t1_us"), r"field 't1_us'"),
        (lambda d: d["qubits"].update({"x": {}}), r"wrong form"),
        (lambda d: d["couplers"].update({"0": 0.9}), r"wrong form"),
        (lambda d: d.update(qubits=[1]), r"wrong form"),
    ],
)
def test_an_impossible_calibration_is_refused_with_its_place(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(change)


def test_a_dead_qubit_may_have_dead_couplers() -> None:
    def kill(data: dict[str, Any]) -> None:
        del data["qubits"]["0"]
        data["couplers"].update({"0-1": 0.0, "0-12": 0.0})

    chip = changed(kill)
    assert chip.n_qubits == 72
    assert (0, 1) not in chip.alive_couplers


def test_json_and_a_file_give_the_same_calibration_back(tmp_path: Path) -> None:
    chip = WUKONG.drifted(3.25, seed=5)
    assert Calibration.from_json(json.loads(json.dumps(chip.to_json()))) == chip
    chip.save(tmp_path / "chip.json")
    assert load_calibration(tmp_path / "chip.json") == chip
    assert load_calibration(str(tmp_path / "chip.json")) == chip


def test_saving_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "chip.json"
    path.write_text("old")
    WUKONG.save(path)
    assert load_calibration(path) == WUKONG
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chip.json"
    path.write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        WUKONG.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_calibration_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"'wukon'.*Did you mean 'wukong'"):
        load_calibration("wukon")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chip.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_calibration(path)


def test_drift_is_a_function_of_seed_and_hours() -> None:
    assert WUKONG.drifted(7, seed=1) == WUKONG.drifted(7, seed=1)
    assert WUKONG.drifted(7, seed=1).qubits != WUKONG.drifted(7, seed=2).qubits
    assert WUKONG.drifted(0, seed=1) is WUKONG
    assert WUKONG.drifted(26.5, seed=1).taken_at == "2025-01-02T02:30:00+00:00"


def test_drift_is_continuous() -> None:
    def distance(first: Calibration, second: Calibration) -> float:
        pairs = zip(first.couplers.values(), second.couplers.values(), strict=True)
        return max(abs(a - b) for a, b in pairs)

    for hours in (2.0, 2.4):
        near = distance(WUKONG.drifted(hours, 3), WUKONG.drifted(hours + 1e-6, 3))
        assert near < 1e-4 < distance(WUKONG.drifted(hours, 3), WUKONG.drifted(hours + 1, 3))


@pytest.mark.parametrize("hours", [0.5, 24, 1000])
def test_drift_keeps_every_number_possible_and_dead_couplers_dead(hours: float) -> None:
    for seed in range(5):
        chip = WUKONG.drifted(hours, seed)  # its construction checks ranges and T2 <= 2 T1
        dead = [pair for pair, fidelity in WUKONG.couplers.items() if fidelity == 0]
        assert [pair for pair, fidelity in chip.couplers.items() if fidelity == 0] == dead


def test_drift_keeps_t2_possible_where_it_is_at_its_limit() -> None:
    edge = QubitQuality(10.0, 20.0, 0.996, 0.94, 0.92)
    chip = dataclasses.replace(WUKONG, qubits=dict.fromkeys(range(72), edge))
    drifted = chip.drifted(50, seed=0)
    assert any(q.t2_us < 2 * q.t1_us for q in drifted.qubits.values())
    assert all(q.t2_us <= 2 * q.t1_us for q in drifted.qubits.values())


def test_drift_returns_to_the_mean() -> None:
    """After a year a chip is as good as it was; a random walk would be 27 times as far away as after 12 hours."""

    def deviations(hours: float) -> list[float]:
        return [
            math.log((1 - later) / (1 - WUKONG.couplers[pair]))
            for seed in range(3)
            for pair, later in WUKONG.drifted(hours, seed).alive_couplers.items()
        ]

    for hours, spread in ((12, 0.15 * math.sqrt(1 - math.exp(-2))), (8760, 0.15)):
        found = deviations(hours)
        mean = sum(found) / len(found)
        measured = math.sqrt(sum(x**2 for x in found) / len(found))
        assert abs(mean) < 4 * spread / math.sqrt(len(found))
        assert measured == pytest.approx(spread, rel=4 / math.sqrt(2 * len(found)))


@pytest.mark.parametrize("hours", [-1, math.inf, math.nan])
def test_impossible_hours_are_refused(hours: float) -> None:
    with pytest.raises(ConfigError, match="hours"):
        WUKONG.drifted(hours, seed=0)
