"""One migration of QEMU, a save or a load, watched to its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from savefmt.progress import Meter
from savefmt.qemu.report import MigrationError
from savefmt.qmp import CommandError, Monitor, MonitorError

_ENDED = frozenset({"completed", "failed", "cancelled"})
_UNSTARTED = frozenset({None, "none", *_ENDED})
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.1
_CANCEL_SECONDS = 30.0
_SETTLE_SECONDS = 30.0
_UNSETTLED = frozenset({"finish-migrate", "inmigrate"})

Watch = Callable[[dict[str, Any]], None]
"""Called with every answer of ``query-migrate``; may raise to end the migration."""


def refuse_second(monitor: Monitor) -> None:
    """Refuse a QEMU that is migrating already.

    Raises
    ------
    MigrationError
        With its state.
    """
    status = monitor.execute("query-migrate").get("status")
    if status not in _UNSTARTED:
        raise MigrationError(
            f"this QEMU is saving or migrating already ({status}); wait until that has ended",
            path=monitor.name,
        )


def follow(monitor: Monitor, verb: str, watch: Watch) -> dict[str, Any]:
    """Wait for the end of a migration.

    Parameters
    ----------
    monitor : Monitor
        Of the QEMU.
    verb : str
        What QEMU is doing, for messages: ``save`` or ``load``.
    watch : callable
        Looks at every answer.

    Returns
    -------
    dict
        The last answer.

    Raises
    ------
    MigrationError
        If it failed, or was cancelled by somebody else.
    MonitorLostError
        If QEMU went away.
    """
    wait = _FIRST_WAIT
    while True:
        answer: dict[str, Any] = monitor.execute("query-migrate")
        watch(answer)
        status = answer.get("status")
        if status == "completed":
            return answer
        if status in _ENDED:
            reason = answer.get("error-desc") or f"it says {status} and no more"
            raise MigrationError(f"QEMU could not {verb} the guest: {reason}")
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def cancel(monitor: Monitor) -> None:
    """End a save that has not ended by itself, and wait until it is over."""
    if monitor.lost and not monitor.reconnect():
        return
    with contextlib.suppress(MonitorError):  # what led here matters more
        monitor.execute("migrate_cancel")
        wait_until(
            lambda: monitor.execute("query-migrate").get("status") in _UNSTARTED, _CANCEL_SECONDS
        )


def settle(monitor: Monitor) -> str:
    """Wait until QEMU has left the states of passage after a migration.

    Returns
    -------
    str
        The run state.
    """
    wait_until(lambda: monitor.status not in _UNSETTLED, _SETTLE_SECONDS)
    return monitor.status


def resume(monitor: Monitor) -> None:
    """Let the guest run, and see that it does.

    Raises
    ------
    MigrationError
        If it does not.
    """
    settle(monitor)
    try:
        monitor.execute("cont")
    except CommandError as error:
        raise MigrationError(f"the guest does not go on: {error.message}") from error
    if not wait_until(lambda: bool(monitor.execute("query-status")["running"]), _SETTLE_SECONDS):
        raise MigrationError(f"the guest does not go on: it is {monitor.status}")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition, and tell whether it came true in time."""
    end = time.monotonic() + seconds
    wait = _FIRST_WAIT
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    return True


def ram_progress(meter: Meter) -> Watch:
    """Return a watch that shows how much of the RAM is done."""

    def watch(answer: dict[str, Any]) -> None:
        ram = answer.get("ram")
        if ram is not None:
            meter.total = int(ram["total"])
            meter.update(max(meter.total - int(ram["remaining"]), 0))
        else:
            meter.update(0)

    return watch
