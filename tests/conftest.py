"""Hypothesis profiles, signals, and a word at the end about every test that was skipped."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
# Where CI is set, Hypothesis has already loaded its own profile for that.
if "CI" not in os.environ or "HYPOTHESIS_PROFILE" in os.environ:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# A runner in the background hands down an ignored Ctrl-C, which the programs under test heed.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With the variable of a marker set, as .ci/run does, a skipped test of its fails the run.
REQUIRED = {"interop": "SAVEFMT_REQUIRE_INTEROP", "forensics": "SAVEFMT_REQUIRE_FORENSICS"}

_skipped: dict[str, Counter[str]] = {marker: Counter() for marker in REQUIRED}
_passed: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep count of the tests that want real programs."""
    for marker in REQUIRED:
        if marker not in report.keywords:
            continue
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason given"
            _skipped[marker][reason] += 1
        elif report.when == "call" and report.passed:
            _passed[marker] += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where such tests had to run and did not."""
    unproven = any(
        os.environ.get(variable) and (_skipped[marker] or not _passed[marker])
        for marker, variable in REQUIRED.items()
    )
    if unproven and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which of them were left out, and why."""
    write = terminalreporter.write_line
    for marker, variable in REQUIRED.items():
        for reason, count in _skipped[marker].most_common():
            write(
                f"NOT PROVEN: {marker} tests skipped ({count}): {reason.removeprefix('Skipped: ')}"
            )
        if os.environ.get(variable) and not (_passed[marker] or _skipped[marker]):
            write(f"NOT PROVEN: no {marker} test was found")
