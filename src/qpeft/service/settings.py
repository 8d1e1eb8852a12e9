"""What a service offers and how it behaves, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.errors import ConfigError

MAX_PROGRAMS = 200
"""Programs in one task, as on Origin's cloud."""


def _packaged_chips() -> dict[str, Calibration]:
    return {"origin_wukong": load_calibration("wukong")}


@dataclass(frozen=True)
class UserLimits:
    """What one user may have.

    Args:
        max_open_tasks: Tasks that wait or run at one time.
        max_shots_a_day: Shots of all programs of all tasks sent within 24 hours, cancelled ones included.

    Raises:
        ConfigError: A limit is less than 1.
    """

    max_open_tasks: int = 1000
    max_shots_a_day: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.max_open_tasks < 1 or self.max_shots_a_day < 1:
            raise ConfigError(f"Limits of a user are at least 1; got {self}.")


@dataclass(frozen=True)
class ServiceSettings:
    """How the emulated cloud behaves.

    Args:
        chips: Its chips by name, each as it is when the service's folder is made.
        queue_delay: Seconds that every task waits before it may run.
        max_shots: Shots of one program.
        limits: Of a user of whom the key ring says nothing else.
        seed: Of outcomes and drift; one folder keeps the seed that it was made with.
        has_drift: The calibration changes from hour to hour.

    Raises:
        ConfigError: A value is out of range.
    """

    chips: Mapping[str, Calibration] = field(default_factory=_packaged_chips)
    queue_delay: float = 0.0
    max_shots: int = 100_000
    limits: UserLimits = field(default_factory=UserLimits)
    seed: int = 0
    has_drift: bool = True

    def __post_init__(self) -> None:
        if not self.chips:
            raise ConfigError("A service needs at least one chip.")
        if not 0 <= self.queue_delay < float("inf"):
            raise ConfigError(f"queue_delay is a number of seconds; got {self.queue_delay}.")
        if self.max_shots < 1 or self.seed < 0:
            raise ConfigError(
                f"max_shots is at least 1 and seed at least 0; got {self.max_shots} and {self.seed}."
            )
