"""Hypothesis profiles, and a plain word at the end about every test that was skipped."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
# Where CI is set, Hypothesis has already loaded its own profile for that.
if "CI" not in os.environ or "HYPOTHESIS_PROFILE" in os.environ:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# With this variable set, as .ci/run does, a skipped interop test fails the run.
REQUIRE_INTEROP = "SAVEFMT_REQUIRE_INTEROP"

_skipped_interop: Counter[str] = Counter()
_passed_interop: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep count of the interop tests."""
    if "interop" not in report.keywords:
        return
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason given"
        _skipped_interop[reason] += 1
    elif report.when == "call" and report.passed:
        _passed_interop.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where the interop tests had to run and did not."""
    unproven = bool(_skipped_interop) or not _passed_interop
    if os.environ.get(REQUIRE_INTEROP) and unproven and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which interop tests were left out, and why."""
    write = terminalreporter.write_line
    for reason, count in _skipped_interop.most_common():
        write(f"NOT PROVEN: interop tests skipped ({count}): {reason.removeprefix('Skipped: ')}")
    if os.environ.get(REQUIRE_INTEROP) and not (_passed_interop or _skipped_interop):
        write("NOT PROVEN: no interop test was found")
