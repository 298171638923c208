"""What ``savefmt info`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from savefmt.cli.render.damage import salvage_lines
from savefmt.cli.render.plain import WIDTH, many, plain, size
from savefmt.format.features import name_bits
from savefmt.model import DiskSummary, ImageSummary, Layout, RamBlock, Snapshot

_STATES = {
    "finished": "complete",
    "incomplete": "INCOMPLETE, the save never finished",
    "bare": "",
}


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
    for key, value in summary_fields(summary):
        yield f"{key + ':':<15}{plain(value)}"
    yield from _block_lines(summary.blocks)
    if summary.salvage is not None:
        yield from map(plain, salvage_lines(summary.salvage))
    yield from _section_lines(summary, verbose=verbose)


def disk_lines(summary: DiskSummary) -> Iterator[str]:
    """List the snapshots of a disk image that hold a guest.

    Parameters
    ----------
    summary : DiskSummary
        The disk image.

    Yields
    ------
    str
        One line.
    """
    guests = [snapshot for snapshot in summary.snapshots if snapshot.state_length]
    others = len(summary.snapshots) - len(guests)
    yield f"{'image:':<15}{plain(summary.path)}"
    yield f"{'kind:':<15}qcow2 disk image"
    more = f", {others} of the disk alone" if others else ""
    yield f"{'snapshots:':<15}{len(guests)} with a guest{more}"
    for snapshot in guests:
        yield f"  {plain(snapshot.name)}: {_snapshot(snapshot)}"


def _snapshot(snapshot: Snapshot) -> str:
    words = [
        f"ID {snapshot.identity}",
        _clock(snapshot.date),
        f"guest clock {_duration(snapshot.clock)}",
        size(snapshot.state_length),
    ]
    if snapshot.complete is not None:
        words.append("complete" if snapshot.complete else "INCOMPLETE")
    return plain(", ".join(words))


def _duration(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds // 1_000_000, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}.{rest:03}"


def summary_fields(summary: ImageSummary) -> Iterator[tuple[str, str]]:
    """Tell about an image as a whole: name and value, as they stand in it."""
    envelope = summary.envelope
    yield "image", summary.path
    if summary.snapshot is not None:
        yield "snapshot", f"{summary.snapshot.name}: {_snapshot(summary.snapshot)}"
    if summary.offset:
        yield "begins at", f"offset {summary.offset:#x} of the file; other offsets count from there"
    if summary.shared:
        yield (
            "filled in",
            f"{', '.join(summary.shared)}; offsets count in the whole",
        )
    if summary.outer != "raw":
        yield "compressed", f"as a whole, with {summary.outer}"
    if summary.dump is not None:
        yield "kind", f"{summary.dump}, read as RAM alone"
    elif envelope is None:
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
    if summary.base is not None:
        found = summary.layout is Layout.MAPPED_RAM
        lost = "" if found else ", which is missing or has changed (savefmt check)"
        yield "thin", f"its memory lies in {summary.base}{lost}"
    if (mark := summary.salvaged) is not None:
        count = sum(mark.lost.values())
        lost = f"{many(count, 'page')} lost (savefmt check tells of which blocks)"
        yield "SALVAGED", f"from a damaged image, {lost if count else 'which nothing proves'}"
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
    claimed = "" if summary.sections_proved else " by the end of the file, not proved"
    if verbose:
        yield f"{'devices:':<15}{many(len(summary.sections), 'section')}{claimed}"
        for section in summary.sections:
            version = "" if section.version is None else f" version {section.version}"
            length = "" if section.length is None else f", {section.length} bytes"
            at = "" if section.offset is None else f" at {section.offset:#x}"
            yield f"  {plain(section.idstr)}/{section.instance_id}{version}{length}{at}"
        return
    counts = Counter(plain(section.idstr) for section in summary.sections)
    names = [name if count == 1 else f"{name} x{count}" for name, count in counts.items()]
    line = f"{'devices:':<15}{many(len(summary.sections), 'section')}{claimed}:"
    for word in (", ".join(names) or "none").split():
        if len(line) + 1 + len(word) > WIDTH:
            yield line
            line = " " * 14
        line += f" {word}"
    yield line
