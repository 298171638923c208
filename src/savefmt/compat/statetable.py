"""What device state a QEMU program can load: it prints that itself (``-dump-vmstate``)."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from savefmt.frozen import dataclass
from savefmt.model import Section
from savefmt.qmp import MonitorError


@dataclass(frozen=True, slots=True)
class StateTable:
    """The device state that a QEMU knows.

    Attributes
    ----------
    names : mapping of str to str
        Type of a device (QOM), and the name of its section.
    versions : mapping of str to (int, int)
        Name of a section, and the oldest and newest version that is loaded.
    """

    names: Mapping[str, str]
    versions: Mapping[str, tuple[int, int]]


def read_state_table(binary: str, *, timeout: float = 10.0) -> StateTable:
    """Ask a QEMU program for its device state.

    Parameters
    ----------
    binary : str
        The program.  It is run: know where the name comes from.
    timeout : float
        Seconds for it to answer.

    Returns
    -------
    StateTable
        Of all devices that it has compiled in.

    Raises
    ------
    MonitorError
        If the program cannot be run, or prints no such table.
    """
    import subprocess

    command = [binary, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    try:
        done = subprocess.run(
            [*command, "-dump-vmstate", "/dev/stdout"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        return parse_state_table(json.loads(done.stdout))
    except OSError as error:
        reason = error.strerror or str(error)
        raise MonitorError(f"the program cannot be run: {reason}", path=binary) from error
    except (subprocess.TimeoutExpired, ValueError, AttributeError) as error:
        raise MonitorError(
            "this program does not tell what state it loads (-dump-vmstate)", path=binary
        ) from error


def parse_state_table(document: Mapping[str, Any]) -> StateTable:
    """Read the table that QEMU printed; `AttributeError` if it is something else."""
    names: dict[str, str] = {}
    versions: dict[str, tuple[int, int]] = {}
    for kind, entry in document.items():
        described = entry.get("Description")
        if described is None:
            continue
        name, version = described.get("name"), described.get("version_id")
        oldest = described.get("minimum_version_id", version)
        if not (isinstance(name, str) and isinstance(version, int) and isinstance(oldest, int)):
            continue
        names[kind] = name
        least, most = versions.get(name, (oldest, version))
        versions[name] = (min(least, oldest), max(most, version))
    return StateTable(names, versions)


def section_name(idstr: str, known: Container[str] = ()) -> str:
    """Return the name of a section without the place of its device.

    Parameters
    ----------
    idstr : str
        As in the stream.
    known : container of str
        Names, some of which have a slash in them.

    Returns
    -------
    str
        The longest known end of the idstr, else what follows its last slash.
    """
    name = idstr
    while name not in known and "/" in name:
        name = name.partition("/")[2]
    return name


def unloadable(sections: Iterable[Section], table: StateTable) -> Iterator[tuple[str, str]]:
    """Find sections in a version that a QEMU does not load.

    Parameters
    ----------
    sections : iterable of Section
        Of the image.
    table : StateTable
        Of the QEMU.

    Yields
    ------
    (str, str)
        Idstr of the section, and what is wrong in words.
    """
    for section in sections:
        known = table.versions.get(section_name(section.idstr, table.versions))
        if known is None or section.version is None or known[0] <= section.version <= known[1]:
            continue
        loads = f"version {known[1]}" if known[0] == known[1] else f"{known[0]} to {known[1]}"
        yield section.idstr, f"is of version {section.version}, and this QEMU loads {loads}"
