"""Whatever instant a process dies at and whatever a machine does: nothing is lost, nothing is sent twice.

`fault_campaign` says what is held against what; here the faults are counted.
"""

from collections.abc import Mapping

import pytest
from fault_campaign import run_campaign

PROCESS_KINDS = ("kill", "kill_before_submit", "kill_after_submit", "disk_full", "read_only")
MACHINE_KINDS = ("drop_before", "drop_after", "duplicate", "partial", "out_of_order", "fail")
DAMAGE_KINDS = ("bit_flip", "wrong_sum")


def test_nothing_is_lost_or_sent_twice_under_60_faults() -> None:
    assert _n_faults(run_campaign(24, seed=1)) >= 60


@pytest.mark.slow
def test_nothing_is_lost_or_sent_twice_under_500_faults() -> None:
    faults = run_campaign(240, seed=2)
    print(table(faults))
    assert _n_faults(faults) >= 500
    for kind in (*PROCESS_KINDS, *MACHINE_KINDS, *DAMAGE_KINDS):
        assert faults[kind] >= 5, f"{kind} hardly ever struck"


def table(faults: Mapping[str, int]) -> str:
    """Return the count by kind as lines for a document."""
    lines = [f"{kind:32}{n:6}" for kind, n in faults.items()]
    return "\n".join([*lines, f"{'all faults':32}{_n_faults(faults):6}"])


def _n_faults(faults: Mapping[str, int]) -> int:
    """Return how many faults struck; entries in brackets are consequences."""
    return sum(n for kind, n in faults.items() if not kind.startswith("("))
