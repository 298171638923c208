"""QEMU's migration settings: changed for one job, and then restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from savefmt.compat.ask import read_capabilities
from savefmt.qmp import Monitor

HARMLESS = frozenset({"events", "auto-converge"})
"""Capabilities that change nothing in the stream and may stay as they are."""

UNLIMITED = 1 << 62
"""Bytes a second for ``max-bandwidth``, whose default would be 128 MiB/s."""

_NEUTRAL: Mapping[str, object] = {
    "tls-creds": "",  # else QEMU would put TLS on a file
    "mode": "normal",
    "multifd-compression": "none",  # mapped-ram takes no other setting
}


def parameters_for(channels: int, direct: bool) -> dict[str, object]:
    """Return the migration parameters of a save or load.

    Parameters
    ----------
    channels : int
        Of multifd; 0 without it.
    direct : bool
        Whether QEMU bypasses the page cache.

    Returns
    -------
    dict
        By QMP's names.
    """
    chosen: dict[str, object] = {"max-bandwidth": UNLIMITED, "direct-io": direct}
    return chosen | ({"multifd-channels": channels} if channels else {})


@contextmanager
def configured(
    monitor: Monitor,
    capabilities: Iterable[str],
    parameters: Mapping[str, object],
    *,
    keep: Iterable[str] = HARMLESS,
) -> Iterator[None]:
    """Set capabilities and parameters, and set back afterwards what was changed.

    Parameters
    ----------
    monitor : Monitor
        Of the QEMU.
    capabilities : iterable of str
        To be on; all others are off, for each of them changes the stream.
    parameters : mapping
        By QMP's names; what this QEMU does not know is left out.
    keep : iterable of str
        Capabilities that stay as they are.

    Yields
    ------
    None
        While the settings hold.

    Raises
    ------
    MonitorError
        If QEMU refuses them.
    """
    on, kept = frozenset(capabilities), frozenset(keep)
    before = read_capabilities(monitor)
    wanted = {name: name in on for name in before if name in on or name not in kept}
    flipped = [name for name, state in wanted.items() if before[name] != state]
    known = monitor.execute("query-migrate-parameters")
    changed = {
        name: value
        for name, value in {**_NEUTRAL, **parameters}.items()
        if name in known and known[name] != value
    }
    with contextlib.ExitStack() as back:
        # Parameters first: QEMU refuses mapped-ram together with some of their values.
        back.callback(_set_parameters, monitor, {name: known[name] for name in changed})
        _set_parameters(monitor, changed)
        back.callback(_set_capabilities, monitor, {name: before[name] for name in flipped})
        _set_capabilities(monitor, {name: wanted[name] for name in flipped})
        yield


def _set_parameters(monitor: Monitor, values: Mapping[str, object]) -> None:
    if values and _answers(monitor):
        monitor.execute("migrate-set-parameters", values)


def _set_capabilities(monitor: Monitor, states: Mapping[str, bool]) -> None:
    if states and _answers(monitor):
        pairs = [{"capability": name, "state": state} for name, state in states.items()]
        monitor.execute("migrate-set-capabilities", capabilities=pairs)


def _answers(monitor: Monitor) -> bool:
    """Whether QEMU can be told; a connection that broke, QEMU living on, is mended first."""
    return not monitor.lost or (not monitor.silent and monitor.reconnect())
