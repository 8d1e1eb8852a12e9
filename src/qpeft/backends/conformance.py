"""The kit that the author of a backend or a remote runs: does it keep the conventions and promises we rely on?

    report = check_conformance(ExactBackend())
    for name, outcome, detail in report.rows(): ...

A remote is sent a few dozen small jobs, so that a run on a paid machine costs something.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from qpeft.backends.base import Backend
from qpeft.backends.conformance_backends import Expected, backend_claims
from qpeft.backends.conformance_checks import Check, Outcome, run_check
from qpeft.backends.conformance_remotes import remote_claims
from qpeft.backends.remote import Remote
from qpeft.errors import ConfigError, did_you_mean

__all__ = ["Check", "ConformanceReport", "Outcome", "check_conformance"]


@dataclass(frozen=True)
class ConformanceReport:
    """What the kit found.

    Args:
        target: Name of the backend or remote.
        checks: In the order in which they ran.
    """

    target: str
    checks: tuple[Check, ...]

    @property
    def is_conforming(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAILED)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (claim, outcome, detail) of each check, for a table."""
        return [(check.name, str(check.outcome), check.detail) for check in self.checks]


def check_conformance(
    target: Backend | Remote,
    *,
    shots: int = 2000,
    seed: int = 0,
    is_noisy: bool = False,
    sends_jobs: bool = True,
    max_circuits: int = 256,
    timeout_seconds: float = 120.0,
    expected: Expected | None = None,
    fresh: Callable[[], Remote] | None = None,
    only: Collection[str] | None = None,
) -> ConformanceReport:
    """Check a backend or a remote.

    Args:
        target: What is checked.
        shots: Of each circuit that a remote runs; at least 500, so that the bounds mean something.
        seed: Seed of the angles.
        is_noisy: The remote has noise: distributions are held to a bound in total variation that any chip of
            today keeps, and the certain outcomes of certain circuits must still be the most frequent ones.
        sends_jobs: False checks only what a remote does without sending anything.
        max_circuits: Circuits of the batch that should need several jobs; more are not sent.
        timeout_seconds: How long to wait for a job.
        expected: For a backend that is not exact, what its expectations should be.
        fresh: Makes another object of the same remote, as a later process would.
        only: Names of the checks that run; None runs all.

    Returns:
        The report; a check that fails is in it, not raised.

    Raises:
        ConfigError: The target is neither a backend nor a remote, there are too few shots, or no such check.

    Example:
        >>> from qpeft.backends import get_backend
        >>> check_conformance(get_backend("exact")).is_conforming
        True
    """
    if isinstance(target, Remote):
        if shots < 500:
            raise ConfigError(f"Conformance needs at least 500 shots a circuit; got {shots}.")
        claims = remote_claims(
            target,
            shots=shots,
            seed=seed,
            is_noisy=is_noisy,
            sends_jobs=sends_jobs,
            max_circuits=max_circuits,
            timeout_seconds=timeout_seconds,
            fresh=fresh,
        )
    elif isinstance(target, Backend):
        claims = backend_claims(target, seed, expected)
    else:
        raise ConfigError(
            f"The kit checks a Backend or a Remote; {type(target).__name__} lacks methods of both."
        )
    return ConformanceReport(target.name, _run_chosen(claims, only))


def _run_chosen(
    claims: Mapping[str, Callable[[], str]], only: Collection[str] | None
) -> tuple[Check, ...]:
    chosen = list(claims) if only is None else list(only)
    for name in chosen:
        if name not in claims:
            raise ConfigError(f"There is no check '{name}'.{did_you_mean(name, claims)}")
    return tuple(run_check(name, check) for name, check in claims.items() if name in chosen)
