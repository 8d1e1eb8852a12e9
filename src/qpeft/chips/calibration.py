"""The qualities of a chip at one time: its qubits, its couplers, its gate times.

load_calibration("wukong")  ->  Calibration  ->  drifted(hours, seed)  ->  save(path)
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np

from qpeft.errors import ConfigError, did_you_mean

PACKAGED = ("wukong",)
"""Calibrations that come with the package, each as `<name>.json` beside this file."""

DRIFT_HOURS = 12.0
"""Time after which a deviation has fallen to 1/e."""
DRIFT_SPREAD = {"rate": 0.15, "time": 0.1}
"""Standard deviation, in the long run, of the logarithm of an error rate and of T1 and T2."""
MAX_ERROR = 0.5
"""Drift never takes an error rate that started below this above it."""


@dataclass(frozen=True)
class QubitQuality:
    """What is measured of one qubit.

    Args:
        t1_us: Relaxation time, microseconds.
        t2_us: Dephasing time, microseconds, at most 2 t1.
        gate_fidelity: Average fidelity of a U3.
        readout_0: Probability of reading 0 in state 0.
        readout_1: Probability of reading 1 in state 1.
    """

    t1_us: float
    t2_us: float
    gate_fidelity: float
    readout_0: float
    readout_1: float


@dataclass(frozen=True)
class Calibration:
    """A snapshot of a chip.

    Args:
        chip: The chip's name.
        taken_at: ISO 8601, UTC (also where no offset is written).
        shape: Rows and columns of its grid; qubit q sits at (q // columns, q % columns).
        qubits: By number; a number that is missing is a dead qubit.
        couplers: Average CZ fidelity by pair (smaller number first); 0 is a dead coupler.
        gate_ns: Duration of a U3, nanoseconds.
        cz_ns: Duration of a CZ, nanoseconds.
        source: Where the numbers are from.

    Raises:
        ConfigError: A number is impossible, or a coupler joins qubits that are not neighbours.
    """

    chip: str
    taken_at: str
    shape: tuple[int, int]
    qubits: Mapping[int, QubitQuality]
    couplers: Mapping[tuple[int, int], float]
    gate_ns: float
    cz_ns: float
    source: str

    def __post_init__(self) -> None:
        _check_frame(self)
        for number, quality in self.qubits.items():
            _check_qubit(self, number, quality)
        for pair, fidelity in self.couplers.items():
            _check_coupler(self, pair, fidelity)

    @property
    def n_qubits(self) -> int:
        """Places of the grid, dead ones included."""
        return self.shape[0] * self.shape[1]

    @property
    def alive_couplers(self) -> dict[tuple[int, int], float]:
        """The couplers that work, with their CZ fidelity."""
        return {pair: fidelity for pair, fidelity in self.couplers.items() if fidelity > 0}

    def cz_fidelity(self, first: int, second: int) -> float:
        """Return the CZ fidelity of two qubits in either order; 0 where no coupler works."""
        return self.couplers.get((min(first, second), max(first, second)), 0.0)

    def drifted(self, hours: float, seed: int) -> "Calibration":
        """Return the chip some hours later.

        The logarithms of error rates and times follow a mean-reverting (Ornstein-Uhlenbeck) path about this
        calibration, so that a chip changes from day to day and stays as good as it is. One seed is one path,
        whatever times of it are asked for. Dead couplers stay dead.

        Args:
            hours: Since this calibration, at least 0.
            seed: Of the path.
        """
        return _drift(self, hours, seed)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON data."""
        return {
            "chip": self.chip,
            "taken_at": self.taken_at,
            "source": self.source,
            "shape": list(self.shape),
            "gate_ns": self.gate_ns,
            "cz_ns": self.cz_ns,
            "qubits": {str(number): asdict(q) for number, q in self.qubits.items()},
            "couplers": {f"{a}-{b}": fidelity for (a, b), fidelity in self.couplers.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the calibration of `to_json`.

        Raises:
            ConfigError: A field is missing or not of its form, or what the class refuses.
        """
        try:
            rows, columns = data["shape"]
            fields: dict[str, Any] = {
                "chip": str(data["chip"]),
                "taken_at": str(data["taken_at"]),
                "shape": (int(rows), int(columns)),
                "qubits": {int(k): _quality_from_json(v) for k, v in data["qubits"].items()},
                "couplers": {_pair(k): float(v) for k, v in data["couplers"].items()},
                "gate_ns": float(data["gate_ns"]),
                "cz_ns": float(data["cz_ns"]),
                "source": str(data["source"]),
            }
        except KeyError as error:
            raise ConfigError(
                f"A calibration needs the field {error}; it has {', '.join(data)}. "
                f"Compare it with the packaged calibration 'wukong'."
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"A calibration has a field of the wrong form: {error}. "
                f"Compare it with the packaged calibration 'wukong'."
            ) from error
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Write the calibration as a JSON file, which is at no time half written."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(_text_of(self.to_json()), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def load_calibration(name_or_path: str | Path) -> Calibration:
    """Return a packaged calibration by its name, or that of a file.

    Args:
        name_or_path: "wukong", or the path of a file that `Calibration.save` wrote.

    Raises:
        ConfigError: There is no such calibration, or it is not a valid one.

    Example:
        >>> chip = load_calibration("wukong")
        >>> chip.shape, len(chip.couplers)
        ((6, 12), 126)
    """
    if name_or_path in PACKAGED:
        text = resources.files("qpeft.chips").joinpath(f"{name_or_path}.json").read_text("utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"There is no calibration '{name_or_path}': neither a file nor a packaged name."
                f"{did_you_mean(str(name_or_path), PACKAGED)}"
            )
        text = path.read_text("utf-8")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"Calibration '{name_or_path}' is not JSON: {error}.") from error
    return Calibration.from_json(data)


def are_neighbours(shape: tuple[int, int], first: int, second: int) -> bool:
    """Return whether two places of a grid of (rows, columns) are next to each other."""
    rows_apart = abs(first // shape[1] - second // shape[1])
    columns_apart = abs(first % shape[1] - second % shape[1])
    return rows_apart + columns_apart == 1


def _check_frame(chip: Calibration) -> None:
    if min(chip.shape) < 1:
        raise ConfigError(
            f"Calibration of '{chip.chip}': shape must be at least (1, 1); got {chip.shape}."
        )
    for name in ("gate_ns", "cz_ns"):
        value = getattr(chip, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"Calibration of '{chip.chip}': {name} must be a positive number of nanoseconds; "
                f"got {value}."
            )
    try:
        offset = datetime.fromisoformat(chip.taken_at).utcoffset()
    except ValueError as error:
        raise ConfigError(
            f"Calibration of '{chip.chip}': taken_at must be ISO 8601, such as "
            f"2025-01-01T00:00:00+00:00; got '{chip.taken_at}'."
        ) from error
    if offset not in (None, timedelta(0)):
        raise ConfigError(
            f"Calibration of '{chip.chip}': taken_at must be in UTC; got '{chip.taken_at}'."
        )


def _check_qubit(chip: Calibration, number: int, quality: QubitQuality) -> None:
    where = f"Calibration of '{chip.chip}', qubit {number}"
    if not 0 <= number < chip.n_qubits:
        raise ConfigError(f"{where}: a grid of {chip.shape} has qubits 0 to {chip.n_qubits - 1}.")
    for name in ("gate_fidelity", "readout_0", "readout_1"):
        _check_fidelity(f"{where}: {name}", getattr(quality, name))
    for name in ("t1_us", "t2_us"):
        value = getattr(quality, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"{where}: {name} must be a positive number of microseconds; got {value}. "
                f"Leave a dead qubit out."
            )
    if quality.t2_us > 2 * quality.t1_us * (1 + 1e-12):
        raise ConfigError(
            f"{where}: t2_us = {quality.t2_us} is more than 2 t1_us = {2 * quality.t1_us}, which no "
            f"qubit can have. Lower t2_us to that."
        )


def _check_coupler(chip: Calibration, pair: tuple[int, int], fidelity: float) -> None:
    where = f"Calibration of '{chip.chip}', coupler {pair[0]}-{pair[1]}"
    if not 0 <= pair[0] < pair[1] < chip.n_qubits:
        raise ConfigError(
            f"{where}: name the smaller qubit first, both of 0 to {chip.n_qubits - 1}."
        )
    if not are_neighbours(chip.shape, *pair):
        raise ConfigError(
            f"{where}: these qubits are not neighbours on a grid of {chip.shape} whose qubit q sits at "
            f"(q // {chip.shape[1]}, q % {chip.shape[1]}). Leave the coupler out or correct the shape."
        )
    _check_fidelity(where, fidelity)
    dead = [qubit for qubit in pair if qubit not in chip.qubits]
    if fidelity > 0 and dead:
        raise ConfigError(
            f"{where}: fidelity {fidelity}, but qubit {dead[0]} is dead. Set it to 0 or leave it out."
        )


def _check_fidelity(where: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(
            f"{where} is a probability, from 0 to 1; got {value}. A percentage is divided by 100."
        )


def _quality_from_json(data: Mapping[str, Any]) -> QubitQuality:
    names = QubitQuality.__dataclass_fields__
    return QubitQuality(**{name: float(data[name]) for name in names})


def _pair(text: str) -> tuple[int, int]:
    first, second = text.split("-")
    return int(first), int(second)


def _text_of(data: dict[str, Any]) -> str:
    """Return JSON with one qubit or coupler a line, for people who compare two files."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            entries = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{entries}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _drift(chip: Calibration, hours: float, seed: int) -> Calibration:
    if not (math.isfinite(hours) and hours >= 0):
        raise ConfigError(f"A calibration drifts by a number of hours, at least 0; got {hours}.")
    if hours == 0:
        return chip
    path = iter(_path(5 * len(chip.qubits) + len(chip.couplers), hours, seed))

    def time(value: float) -> float:
        return value * math.exp(DRIFT_SPREAD["time"] * float(next(path)))

    def fidelity(value: float) -> float:
        factor = math.exp(DRIFT_SPREAD["rate"] * float(next(path)))
        return 1 - min((1 - value) * factor, max(MAX_ERROR, 1 - value))

    def quality(old: QubitQuality) -> QubitQuality:
        t1, t2 = time(old.t1_us), time(old.t2_us)
        fidelities = [fidelity(f) for f in (old.gate_fidelity, old.readout_0, old.readout_1)]
        return QubitQuality(t1, min(t2, 2 * t1), *fidelities)

    qubits = {number: quality(old) for number, old in chip.qubits.items()}
    couplers = {pair: fidelity(f) if f > 0 else 0.0 for pair, f in chip.couplers.items()}
    later = datetime.fromisoformat(chip.taken_at) + timedelta(hours=hours)
    source = f"{chip.source} Drifted by {hours:g} hours, seed {seed}."
    return Calibration(
        chip.chip,
        later.isoformat(timespec="seconds"),
        chip.shape,
        qubits,
        couplers,
        chip.gate_ns,
        chip.cz_ns,
        source,
    )


def _path(n_values: int, hours: float, seed: int) -> np.ndarray:
    """Return where n_values Ornstein-Uhlenbeck paths of unit spread, started at 0, stand after some hours.

    Every hour has its own draws, and a part of an hour takes a part of the next ones, so that a path is
    continuous and the same for every time that is asked for.
    """
    generator = np.random.default_rng(seed)
    place = np.zeros(n_values)
    left = hours
    while left > 0:
        kept = math.exp(-min(left, 1.0) / DRIFT_HOURS)
        place = kept * place + math.sqrt(1 - kept**2) * generator.standard_normal(n_values)
        left -= 1.0
    return place
