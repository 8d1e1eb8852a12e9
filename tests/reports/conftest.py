"""One study and its report for all tests of this folder; the synthetic studies live with the study's tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "study"))

from sample import rich_study

from qpeft.reports import ReportFiles, write_report
from qpeft.study.results import StudyResults
from qpeft.study.statistics import find


@pytest.fixture(scope="session")
def study() -> StudyResults:
    """A study with everything that can be shown, a failed run included."""
    tasks = ("arithmetic", "diagnoses")
    return rich_study(n_examples=120, tasks=tasks, failed=(("diagnoses", "mlp", 1),))


@pytest.fixture(scope="session")
def report(study: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """Its report."""
    return write_report(study, find(study), tmp_path_factory.mktemp("report"))
