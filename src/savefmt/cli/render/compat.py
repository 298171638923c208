"""What ``savefmt compat`` prints, and ``check`` about this host."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import plain, size
from savefmt.reports import Answer, CompatReport, HostReport

_NAMES = {"libvirt": "libvirt", "qemu": "QEMU"}


def compat_lines(report: CompatReport) -> Iterator[str]:
    """Tell who can load an image, one line a reader and one a reason.

    Parameters
    ----------
    report : CompatReport
        What `savefmt.compat.verdict.compatibility` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"{plain(report.path)}: machine type {plain(report.machine) or 'not recorded'}"
    for verdict in report.verdicts:
        reader = f"{_NAMES[verdict.program]} {verdict.release}"
        first, *others = (*map(plain, verdict.reasons), "")
        yield f"  {reader:<18}{verdict.answer:<9}{first}".rstrip()
        for reason in filter(None, others):
            yield f"{'':<29}{reason}"
        if verdict.conversion:
            options = " ".join(verdict.conversion)
            becomes = "loadable" if verdict.answer is Answer.NO else "a yes"
            yield f"{'':<29}savefmt convert {options} makes it {becomes}"


def host_lines(report: HostReport) -> Iterator[str]:
    """Tell what this host has for loading an image.

    Parameters
    ----------
    report : HostReport
        What `savefmt.compat.host.probe_host` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"host: libvirt {report.libvirt or 'not installed'}"
    if report.qemu_release is not None:
        has = {
            "mapped-ram": report.mapped_ram,
            "direct I/O": report.direct_io,
            "multifd": report.multifd,
        }
        named = (
            ", ".join(name for name, there in has.items() if there)
            or "neither mapped-ram nor multifd"
        )
        yield f"host: QEMU {report.qemu_release} ({plain(report.qemu or '')}): {named}"
        memory = f", main memory {plain(report.default_ram_id)}" if report.default_ram_id else ""
        yield f"host: machine type {report.machine}{memory}"
    if report.program is not None:
        yield f"host: decompresses with {report.program}"
    if report.memory_available is not None:
        free, needed = size(report.memory_available), size(report.memory_needed)
        yield f"host: {free} of memory free, the guest has {needed}"
