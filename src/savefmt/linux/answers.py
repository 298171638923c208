"""The answers by their names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any

from savefmt.image import SaveImage
from savefmt.linux.clock import host
from savefmt.linux.crosschecks import check_modules, check_processes, check_sockets
from savefmt.linux.facts import GuestReport
from savefmt.linux.interfaces import interfaces
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernellog import log_lines
from savefmt.linux.kernelmodules import modules
from savefmt.linux.memoryareas import memory_areas
from savefmt.linux.mounts import mounts
from savefmt.linux.openfiles import open_files
from savefmt.linux.opening import open_kernel
from savefmt.linux.pagecache import cached_files
from savefmt.linux.pageowners import page_owners
from savefmt.linux.processes import Only, environments, processes
from savefmt.linux.sockets import sockets
from savefmt.linux.timeline import events
from savefmt.linux.walks import error_types
from savefmt.model import Finding, Severity

_MOST = 1 << 20
"""Rows of an answer at most."""

ANSWERS = {
    "summary": ("host", "processes", "log", "sockets", "interfaces", "modules", "areas"),
    "ps": ("processes",),
    "tree": ("processes",),
    "log": ("log",),
    "files": ("files",),
    "net": ("sockets", "interfaces"),
    "mounts": ("mounts",),
    "modules": ("modules",),
    "maps": ("areas",),
    "env": ("environments",),
    "cached": ("cached",),
    "pages": ("pages",),
    "timeline": ("events",),
    "all": (
        *("host", "processes", "log", "files", "sockets", "interfaces", "mounts"),
        *("modules", "areas", "environments"),
    ),
}
"""What belongs to each."""

_READERS: dict[str, Callable[[Kernel, Only], Iterable[Any]]] = {
    "processes": processes,
    "log": lambda kernel, only: log_lines(kernel),
    "files": open_files,
    "sockets": sockets,
    "interfaces": lambda kernel, only: interfaces(kernel),
    "mounts": mounts,
    "modules": lambda kernel, only: modules(kernel),
    "areas": memory_areas,
    "environments": environments,
    "cached": lambda kernel, only: cached_files(kernel),
    "pages": lambda kernel, only: page_owners(kernel),
    "events": lambda kernel, only: events(kernel),
}
_CHECKS: dict[str, Callable[[Kernel, Any], None]] = {
    "processes": check_processes,
    "modules": check_modules,
    "sockets": check_sockets,
}


def ask(image: SaveImage, answer: str = "summary", pids: Collection[int] = ()) -> GuestReport:
    """Tell what ran in a Linux guest, from its own memory alone.

    Parameters
    ----------
    image : SaveImage
        Of any form.  ``IOOptions(direct=False)`` suits it best.
    answer : str
        A key of `ANSWERS`.
    pids : collection of int
        The processes to report; all by default.

    Returns
    -------
    GuestReport
        As the kernel's own lists say.

    Raises
    ------
    UnsupportedError
        If the guest is no Linux, or its kernel keeps too little of itself; the message says
        what helps.  Or if there is no drgn: ``pip install 'savefmt[linux]'``.
    """
    return read_answer(open_kernel(image), answer, pids)


def read_answer(kernel: Kernel, answer: str, pids: Collection[int] = ()) -> GuestReport:
    """Tell one thing of a kernel; as `ask`."""
    only = frozenset(pids) or None
    found: dict[str, Any] = dict.fromkeys(("host", *_READERS))
    for name in ANSWERS[answer]:
        found[name] = _read(kernel, name, only)
    if only is None:
        for name, check in _CHECKS.items():
            if found[name] is not None:
                kernel.doubts = 0
                try:
                    check(kernel, found[name])
                except error_types() as error:
                    _end_early(kernel, f"the check of {name}", error)
    path = str(kernel.image.path)
    return GuestReport(path=path, findings=tuple(kernel.findings), **found)


def _end_early(kernel: Kernel, what: str, error: Exception) -> None:
    message = f"{what} could not be read whole: {error}"
    kernel.findings.append(Finding("linux.damaged", Severity.WARNING, message))


def _read(kernel: Kernel, name: str, only: Only) -> Any:
    """Read one kind of rows as far as it goes."""
    rows: list[Any] = []
    kernel.doubts = 0
    try:
        if name == "host":
            return host(kernel)
        rows.extend(islice(_READERS[name](kernel, only), _MOST))
    except error_types() as error:
        _end_early(kernel, name, error)
    return None if name == "host" else tuple(rows)
