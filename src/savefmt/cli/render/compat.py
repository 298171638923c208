"""What ``savefmt compat`` prints, and ``check`` about this host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from savefmt.cli.render.plain import plain, size
from savefmt.frozen import replace
from savefmt.reports import Answer, CompatReport, HostReport, Verdict

_NAMES = {"libvirt": "libvirt", "qemu": "QEMU"}


def compat_lines(report: CompatReport) -> Iterator[str]:
    """Tell who can load an image, one line for neighbours that say the same.

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
    rows = reader_rows(report)
    width = max([18, *(len(readers) + 2 for readers, _ in rows)])
    for readers, verdict in rows:
        first, *others = (*map(plain, verdict.reasons), "")
        yield f"  {readers:<{width}}{verdict.answer:<9}{first}".rstrip()
        indent = " " * (width + 11)
        for reason in filter(None, others):
            yield f"{indent}{reason}"
        if verdict.conversion:
            options = " ".join(verdict.conversion)
            becomes = "loadable" if verdict.answer is Answer.NO else "a yes"
            yield f"{indent}savefmt convert {options} makes it {becomes}"


def reader_rows(report: CompatReport) -> list[tuple[str, Verdict]]:
    """Return readers, neighbours that say the same together, and what they say."""
    return [(_readers(same), same[0]) for same in _grouped(report.verdicts)]


def _grouped(verdicts: Sequence[Verdict]) -> Iterator[list[Verdict]]:
    """Yield neighbours that say the same of their releases."""
    for _, same in itertools.groupby(verdicts, lambda v: replace(v, release="", system="")):
        yield list(same)


def _readers(verdicts: Sequence[Verdict]) -> str:
    first, last = verdicts[0].release, verdicts[-1].release
    span = first if first == last else f"{first} to {last}"
    systems = ", ".join(verdict.system for verdict in verdicts if verdict.system)
    return f"{_NAMES[verdicts[0].program]} {span}" + (f" ({systems})" if systems else "")


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
        yield f"host: machine type {plain(report.machine)}{memory}"
    if report.program is not None:
        yield f"host: decompresses with {report.program}"
    if report.memory_available is not None:
        free, needed = size(report.memory_available), size(report.memory_needed)
        yield f"host: {free} of memory free, the guest has {needed}"
