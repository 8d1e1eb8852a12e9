"""The study of the claims itself, its quick variant, on the real model: about eight minutes on two cores."""

from pathlib import Path

import pytest

from qpeft.reports import write_report
from qpeft.study.plan import plan_study
from qpeft.study.reading import load_study
from qpeft.study.record import write_record
from qpeft.study.running import run_study
from qpeft.study.statistics import find

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_study_of_the_claims_runs_and_reports(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path / 'claims'}"]
    plan = plan_study(load_study(STUDIES / "claims.yaml", overrides, is_quick=True))
    outcome = run_study(plan, n_workers=2, n_threads=1, is_quick=True)
    assert (outcome.n_succeeded, outcome.n_failed) == (outcome.n_jobs, 0)
    results = write_record(outcome.folder)
    assert results.is_quick
    (base,) = results.base.values()
    for arm in results.arms:
        (row,) = results.rows_of("chain_sum", arm.name)
        assert row.last_loss < 0.7 * row.first_loss, arm.name
        assert row.accuracy > base.accuracy, arm.name
        assert (row.circuits > 0) == (arm.name == "qtha")
    (subject,) = results.rows_of("chain_sum", "qtha")
    assert subject.measures["branch"]["share"] > 0
    assert subject.measures["noise"]
    findings = find(results)
    outcomes = {verdict.key: verdict.outcome for verdict in findings.verdicts}
    # One seed and sixty examples decide nothing but what can be counted.
    assert outcomes.pop("parameters") == "supported"
    assert set(outcomes.values()) <= {"not shown", "not measured"}
    page = write_report(results, findings, tmp_path / "report").page
    assert page is not None
    assert findings.headline in page.read_text("utf-8")
