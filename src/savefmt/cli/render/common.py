"""Results as text for people and as plain values for JSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from savefmt.errors import SavefmtError
from savefmt.format.features import name_bits
from savefmt.frozen import asdict
from savefmt.model import Finding, ImageSummary, MapExtent, RamBlock, Severity

if TYPE_CHECKING:  # `savefmt info` has none of them, and must be instant
    from savefmt.reports import (
        CheckReport,
        Comparison,
        ConversionReport,
        EditReport,
        ExportReport,
    )

SCHEMA = 1

_WIDTH = 96
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_PAINT = {Severity.ERROR: "\x1b[31m", Severity.WARNING: "\x1b[33m", Severity.NOTE: "\x1b[36m"}
_RESET = "\x1b[0m"
_STATES = {
    "finished": "complete",
    "incomplete": "INCOMPLETE, the save never finished",
    "bare": "",
}


def plain(text: str) -> str:
    """Make text from a file harmless on a terminal.

    Names in an image are chosen by whoever wrote it; an escape sequence among
    them must not reach the terminal as one.

    Parameters
    ----------
    text : str
        Anything.

    Returns
    -------
    str
        The same with every unprintable character escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief_size(count: float) -> str:
    """Give a size in the unit that suits it, as ``1.5 GiB``.

    Parameters
    ----------
    count : float
        Bytes.

    Returns
    -------
    str
        Three significant digits and a binary unit.
    """
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.3g} {_UNITS[unit]}"


def size(count: int) -> str:
    """Give a size twice, as ``64 MiB (67108864 bytes)``.

    Parameters
    ----------
    count : int
        Bytes.

    Returns
    -------
    str
        For people, then exactly.
    """
    return f"{count} bytes" if count < 1000 else f"{brief_size(count)} ({count} bytes)"


def duration(seconds: float) -> str:
    """Give a time span, as ``0.21 s`` or ``1:02:03``.

    Parameters
    ----------
    seconds : float
        The span.

    Returns
    -------
    str
        Below a minute in seconds, above it like a clock.
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def many(count: int, word: str) -> str:
    """Count things, as ``1 page`` or ``3 pages``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def summary_lines(summary: ImageSummary, *, verbose: bool = False) -> Iterator[str]:
    """Tell about an image in some twenty lines.

    Parameters
    ----------
    summary : ImageSummary
        What `savefmt.probe` returned.
    verbose : bool
        One line for each device section rather than their names in a row.

    Yields
    ------
    str
        One line.
    """
    for key, value in _summary_fields(summary):
        yield f"{key + ':':<15}{plain(value)}"
    yield from _block_lines(summary.blocks)
    yield from _section_lines(summary, verbose=verbose)


def _summary_fields(summary: ImageSummary) -> Iterator[tuple[str, str]]:
    envelope = summary.envelope
    yield "image", summary.path
    if envelope is None:
        yield "kind", "bare QEMU stream, without a libvirt header"
    else:
        yield (
            "kind",
            f"libvirt save image, version {envelope.version} ({envelope.byte_order}-endian), "
            + _STATES[summary.state],
        )
        if envelope.features:
            yield "features", f"{envelope.features:#x}: {', '.join(name_bits(envelope.features))}"
        yield "domain", summary.domain_name or "not named in the XML"
        yield "domain type", summary.domain_type or "unknown"
        yield "UUID", summary.domain_uuid or "unknown"
    if summary.saved is not None:
        yield "last written", _clock(summary.saved)
    if envelope is not None:
        yield "on restore", "runs" if envelope.was_running else "stays paused"
        cookie = f"{envelope.cookie_length} bytes" if envelope.cookie_length else "none"
        room = size(envelope.data_length)
        yield "header data", f"XML {envelope.xml_length} bytes, cookie {cookie}, in {room}"
        yield "header format", f"{envelope.format} ({envelope.format_name})"
    if summary.mislabelled:
        yield "MISLABELLED", f"the header's format does not fit this {summary.layout} stream"
    yield "layout", summary.layout
    yield "codec", summary.codec
    yield "stream", f"begins at offset {summary.stream_offset:#x}"
    yield "machine", summary.machine or "not recorded"
    yield "capabilities", ", ".join(summary.capabilities) or "none recorded"
    if summary.uuid is not None:
        yield "stream UUID", summary.uuid
    yield "page size", size(summary.page_size)
    yield "logical size", size(summary.logical_length)
    yield "size on disk", size(summary.disk_length)


def _clock(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _block_lines(blocks: tuple[RamBlock, ...]) -> Iterator[str]:
    yield f"{'RAM:':<15}{many(len(blocks), 'block')}, {size(sum(b.used_length for b in blocks))}"
    names = [plain(block.idstr) for block in blocks]
    width = max(map(len, names), default=0)
    for name, block in zip(names, blocks, strict=True):
        yield f"  {name:<{width}}  {size(block.used_length)}, {_pages(block)}"


def _pages(block: RamBlock) -> str:
    if block.ignored:
        return "shared memory, left out of the image"
    text = many(block.page_count, "page")
    if block.present is not None:
        text += f", {block.present} present"
    if block.zero is not None:
        text += f", {block.zero} zero"
    return text


def _section_lines(summary: ImageSummary, *, verbose: bool) -> Iterator[str]:
    if summary.sections is None:
        yield f"{'devices:':<15}not known without a full read (--pages)"
        return
    if verbose:
        yield f"{'devices:':<15}{many(len(summary.sections), 'section')}"
        for section in summary.sections:
            version = "" if section.version is None else f" version {section.version}"
            length = "" if section.length is None else f", {section.length} bytes"
            at = "" if section.offset is None else f" at {section.offset:#x}"
            yield f"  {plain(section.idstr)}/{section.instance_id}{version}{length}{at}"
        return
    counts = Counter(plain(section.idstr) for section in summary.sections)
    names = [name if count == 1 else f"{name} x{count}" for name, count in counts.items()]
    line = f"{'devices:':<15}{many(len(summary.sections), 'section')}:"
    for word in (", ".join(names) or "none").split():
        if len(line) + 1 + len(word) > _WIDTH:
            yield line
            line = " " * 14
        line += f" {word}"
    yield line


def check_lines(
    report: CheckReport, *, verbose: bool = False, color: bool = False
) -> Iterator[str]:
    """List the findings and the verdict.

    Parameters
    ----------
    report : CheckReport
        What `savefmt.check` returned.
    verbose : bool
        Show notes, too.
    color : bool
        Paint the severities.

    Yields
    ------
    str
        One line.
    """
    for finding in report.findings:
        if verbose or finding.severity is not Severity.NOTE:
            yield from _finding_lines(finding, color=color)
    counts = Counter(finding.severity for finding in report.findings)
    parts = [many(counts[level], level) for level in reversed(Severity) if counts[level]]
    verdict = {
        Severity.ERROR: _worst_word(report),
        Severity.WARNING: "usable, with findings",
    }.get(report.worst or Severity.NOTE, "sound")
    tally = f" ({', '.join(parts)})" if parts else ""
    yield f"{plain(report.path)}: {verdict}, {report.level} check{tally}"


def _worst_word(report: CheckReport) -> str:
    """Say what errors mean: the image may be sound, and the wrong one for a reader."""
    errors = (f.code for f in report.findings if f.severity is Severity.ERROR)
    others = any(code.partition(".")[0] not in ("libvirt", "qemu", "host") for code in errors)
    return "damaged" if others else "not loadable there"


def _finding_lines(finding: Finding, *, color: bool) -> Iterator[str]:
    label: str = finding.severity
    if color:
        label = f"{_PAINT[finding.severity]}{label}{_RESET}"
    at = "" if finding.offset is None else f" (at offset {finding.offset:#x})"
    yield f"{label}: {plain(finding.message)}{at} [{finding.code}]"
    if finding.advice:
        yield f"    {plain(finding.advice)}"


def conversion_lines(report: ConversionReport) -> Iterator[str]:
    """Tell what `convert` did, or would do.

    Parameters
    ----------
    report : ConversionReport
        What `savefmt.convert` returned.

    Yields
    ------
    str
        One line.
    """
    verb = "would write" if report.dry_run else "wrote"
    version = "bare stream" if report.version is None else f"save version {report.version}"
    form = f"{report.target_layout}, codec {report.target_codec}, {version}"
    if report.target_codec == "null":
        yield f"read {plain(report.source)}, wrote nothing"
    elif not (report.written or report.dry_run):
        yield f"{plain(report.target)}: not changed"
        return
    else:
        yield f"{verb} {plain(report.target)}: {form}"
    yield (
        f"  from {report.source_layout}, codec {report.source_codec}, {size(report.source_length)}"
    )
    if report.target_codec != "null" and not (report.dry_run and report.target_length == 0):
        yield f"  to {size(report.target_length)}, {size(report.target_disk_length)} on disk"
    if report.data_pages is not None:
        yield f"  {many(report.data_pages, 'page')} with data"
    for change in report.changes:
        yield f"  changed: {plain(change)}"
    if not report.dry_run:
        how = "direct" if report.direct else "buffered"
        rate = report.source_length / report.seconds if report.seconds else 0
        yield f"  in {duration(report.seconds)} ({brief_size(rate)}/s read, {how})"
    if report.digest is not None:
        yield f"  verified: {report.digest}"


def comparison_lines(
    comparison: Comparison, *, pages: bool = False, fields: bool = False
) -> Iterator[str]:
    """Tell whether two images hold the same guest, and where not.

    Parameters
    ----------
    comparison : Comparison
        What `savefmt.compare` returned.
    pages : bool
        List the runs of differing pages.
    fields : bool
        List the device fields that differ.

    Yields
    ------
    str
        One line.
    """
    only = {"only-left": comparison.left, "only-right": comparison.right}
    for block in comparison.blocks:
        name = plain(block.idstr)
        if block.reason in only:
            yield f"RAM {name}: only in {plain(only[block.reason])}"
        elif block.reason == "length":
            yield f"RAM {name}: lengths differ"
        else:
            yield f"RAM {name}: {many(block.page_count, 'page')} differ"
        if pages:
            for run in block.runs:
                start, length = run.first * block.page_size, run.count * block.page_size
                yield f"  {start:#x} to {start + length:#x}: {many(run.count, 'page')}"
    for section in comparison.sections:
        name = f"{plain(section.idstr)}/{section.instance_id}"
        if section.reason in only:
            yield f"device {name}: only in {plain(only[section.reason])}"
        else:
            yield f"device {name}: {section.reason} differs"
        if fields:
            for field in section.fields:
                values = ("-" if one is None else plain(one) for one in (field.left, field.right))
                yield f"  {plain(field.path)}: {' | '.join(values)}"
    for note in comparison.notes:
        yield f"note: {plain(note)}"
    if comparison.same:
        yield "same guest: memory and devices are identical"
    else:
        blocks, sections = len(comparison.blocks), len(comparison.sections)
        yield f"different: {many(blocks, 'RAM block')}, {many(sections, 'device section')}"


MAP_HEADING = f"{'Start':<18}{'Length':<18}{'Kind':<8}{'File offset':<18}{'Stride':<8}Block"


def extent_line(extent: MapExtent) -> str:
    """Give one line of ``savefmt map``, in the columns of `MAP_HEADING`.

    Parameters
    ----------
    extent : MapExtent
        A stretch of a RAM block.

    Returns
    -------
    str
        Numbers in hexadecimal, as in ``qemu-img map``.
    """
    offset = "-" if extent.offset is None else f"{extent.offset:#x}"
    stride = "-" if extent.stride is None else f"{extent.stride:#x}"
    return (
        f"{extent.start:<#18x}{extent.length:<#18x}{extent.kind:<8}{offset:<18}{stride:<8}"
        f"{plain(extent.block)}"
    )


def edit_lines(report: EditReport) -> Iterator[str]:
    """Tell what ``savefmt xml set`` did.

    Parameters
    ----------
    report : EditReport
        What `savefmt.edit.set_xml` returned.

    Yields
    ------
    str
        One line.
    """
    if not report.changed:
        yield f"{plain(report.path)}: not changed"
        return
    moved = ", and moved the stream to make room" if report.moved else ""
    yield f"{plain(report.path)}: changed{moved}"
    for change in report.changes:
        yield f"  {plain(change)}"


def fields(
    value: ImageSummary
    | CheckReport
    | ConversionReport
    | ExportReport
    | Comparison
    | MapExtent
    | EditReport,
) -> dict[str, Any]:
    """Turn a result into what JSON can hold, with the verdicts that it computes.

    Parameters
    ----------
    value : dataclass instance
        A result of the library.

    Returns
    -------
    dict
        Plain values under the names of the Python API.
    """
    from savefmt.reports import CheckReport, Comparison

    plain_values = asdict(value)
    if isinstance(value, CheckReport):
        plain_values["ok"] = value.ok
        plain_values["worst"] = value.worst
    elif isinstance(value, Comparison):
        plain_values["same"] = value.same
    return plain_values


def error_fields(error: SavefmtError | OSError, path: str | None = None) -> dict[str, Any]:
    """Turn an error into what JSON can hold.

    Parameters
    ----------
    error : SavefmtError or OSError
        What went wrong.
    path : str, optional
        Used where the error names no file.

    Returns
    -------
    dict
        ``type``, ``message``, ``path``, ``offset`` and ``errno``.
    """
    if isinstance(error, SavefmtError):
        named, message, offset = error.path, error.message, error.offset
    else:
        named, message, offset = error.filename, error.strerror or str(error), None
    return {
        "type": type(error).__name__,
        "message": message,
        "path": path if named is None else os.fsdecode(named),
        "offset": offset,
        "errno": getattr(error, "errno", None) or None,
    }


def lines(items: Iterable[Iterable[str]]) -> Iterator[str]:
    """Put blocks of lines one after another, an empty line between them.

    Parameters
    ----------
    items : iterable of iterables of str
        The blocks.

    Yields
    ------
    str
        One line.
    """
    for number, block in enumerate(items):
        if number:
            yield ""
        yield from block
