"""For PEFT's tests: their marks, no silent skips, and the count at the end."""

import importlib.metadata
from collections.abc import Iterator

import pytest

PEFT_MARKS = ("bitsandbytes", "skipf", "single_gpu_tests", "multi_gpu_tests")


def pytest_configure(config: pytest.Config) -> None:
    for name in PEFT_MARKS:
        config.addinivalue_line("markers", f"{name}: used in PEFT's tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail a test that PEFT skips for QTHA, unless the table says that it may."""
    from contract_table import MAY_SKIP

    report = yield
    name = getattr(item, "originalname", item.name)
    if report.skipped and name not in MAY_SKIP:
        report.outcome = "failed"
        report.longrepr = f"{name} skips QTHA: {report.longrepr}. Say why in contract_table.py."
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [
        report
        for report in terminalreporter.getreports("passed")
        if "test_peft_contract.py::Test" in report.nodeid
    ]
    if passed:
        from contract_table import NOT_APPLICABLE

        version = importlib.metadata.version("peft")
        terminalreporter.write_line(
            f"PEFT's contract: {len(passed)} of the tests of peft {version} pass on QTHA; "
            f"{len(NOT_APPLICABLE)} of its test functions do not apply (contract_table.py)."
        )
