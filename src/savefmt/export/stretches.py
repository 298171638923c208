"""From the memory map to stretches of whole pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from savefmt.errors import ConversionError
from savefmt.frozen import dataclass, replace
from savefmt.guest.memorymap import MemoryMap
from savefmt.guest.needs import read_hardware
from savefmt.image import SaveImage
from savefmt.model import Finding, PhysicalRange, Severity


@dataclass(frozen=True, slots=True)
class MemorySegment:
    """Whole pages of a block, as the guest sees them.

    Attributes
    ----------
    address : int
        Guest-physical.
    block : int
        Number of the RAM block.
    first, count : int
        Its pages.
    page_size : int
        Bytes a page.
    kind : str
        As in `PhysicalRange`.
    """

    address: int
    block: int
    first: int
    count: int
    page_size: int
    kind: str

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.page_size

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.length


def find_segments(
    image: SaveImage,
    findings: list[Finding],
    window: range | None = None,
    wanted: Callable[[PhysicalRange], bool] = lambda _: True,
) -> list[MemorySegment]:
    """Return the guest's memory by guest-physical address.

    Parameters
    ----------
    image : SaveImage
        Open.
    findings : list of Finding
        Receives what is uncertain, and what had to be left out.
    window : range, optional
        Addresses wanted, by whole pages.
    wanted : callable, optional
        Chooses among the ranges.

    Returns
    -------
    list of MemorySegment
        Ascending, none overlapping.

    Raises
    ------
    ConversionError
        If the memory map contradicts itself, so that no answer would be right.
    UnsupportedError
        For an unknown machine.
    """
    memory_map = image.guest.physical.map
    findings += memory_map.findings
    _refuse_contradictions(memory_map)
    if memory_map.unknown:
        names = ", ".join(repr(idstr) for idstr in memory_map.unknown)
        findings.append(
            Finding(
                "export.unplaced",
                Severity.WARNING,
                f"nothing tells where the guest sees {names}, so the export lacks it; give its "
                "address with --place",
            )
        )
    if has_virtio_pmem(image):
        findings.append(
            Finding(
                "export.absent",
                Severity.WARNING,
                "the domain XML has a virtio-pmem device, whose memory no image holds; the "
                "export lacks it",
            )
        )
    numbers = {block.idstr: i for i, block in enumerate(image.head.blocks.blocks)}
    left_out = {block.idstr for block in image.head.blocks.blocks if block.ignored}
    for idstr in sorted(left_out & {item.block for item in memory_map.ranges}):
        findings.append(absent(idstr))
    found: list[MemorySegment] = []
    for item in memory_map.ranges:
        if item.block in left_out or not wanted(item):
            continue
        part = item if window is None else _cut(item, window)
        segment = _whole_pages(part, numbers[item.block], image.page_size, findings)
        for known in _known(image, item.block, segment) if segment is not None else ():
            _append(found, known)
    note_lost(image, findings)
    return found


def _known(image: SaveImage, block: str, segment: MemorySegment) -> Iterator[MemorySegment]:
    """Leave out the pages of a segment that a damaged image has lost."""
    if image.rescue is None:
        yield segment
        return
    end = segment.first + segment.count
    for first, last in image.rescue.lost(block).outside(segment.first, end):
        address = segment.address + (first - segment.first) * segment.page_size
        yield replace(segment, address=address, first=first, count=last - first)


def note_lost(image: SaveImage, findings: list[Finding]) -> None:
    """Say of a damaged image what the export lacks."""
    if image.rescue is not None and (lost := image.rescue.report.lost):
        findings.append(
            Finding(
                "export.lost",
                Severity.WARNING,
                f"{lost} pages are lost; in their place the export has a gap, or zeros if its "
                "format has no gaps",
                None,
                "--lost FILE lists them",
            )
        )


def has_virtio_pmem(image: SaveImage) -> bool:
    """Whether the guest saw memory of a kind that is never saved, as far as its XML tells."""
    devices = read_hardware(image, []).devices
    return any(device.model == "virtio-pmem" for device in devices)


def absent(idstr: str) -> Finding:
    """Return the finding for a block whose content the image does not hold."""
    return Finding(
        "export.absent",
        Severity.WARNING,
        f"the content of {idstr!r} is not in the image (x-ignore-shared); the export lacks it",
    )


def perhaps_absent(idstr: str) -> Finding:
    """Return the finding for a block of which no content came, where that may be no accident."""
    return Finding(
        "export.absent",
        Severity.WARNING,
        f"no content of {idstr!r} is in the image, and shared memory was left out of it "
        "(x-ignore-shared); unless it was all zero, the export lacks it",
    )


def _refuse_contradictions(memory_map: MemoryMap) -> None:
    for finding in memory_map.findings:
        if finding.severity is Severity.ERROR:
            raise ConversionError(
                f"the memory map contradicts itself: {finding.message}; "
                "-O blocks exports without a map"
            )


def _cut(item: PhysicalRange, window: range) -> PhysicalRange:
    start, end = max(item.start, window.start), min(item.end, window.stop)
    return replace(
        item, start=start, length=max(end - start, 0), offset=item.offset + start - item.start
    )


def _whole_pages(
    item: PhysicalRange, block: int, page_size: int, findings: list[Finding]
) -> MemorySegment | None:
    """Cut a range down to whole pages of its block; on sound images that takes nothing."""
    first = -(-item.offset // page_size)
    last = (item.offset + item.length) // page_size
    if item.length and (item.offset % page_size or item.length % page_size):
        findings.append(
            Finding(
                "export.partial-page",
                Severity.WARNING,
                f"{item.block!r} at {item.start:#x} does not consist of whole pages; "
                "its ends are left out",
            )
        )
    if first >= last:
        return None
    address = item.start + first * page_size - item.offset
    return MemorySegment(address, block, first, last - first, page_size, item.kind)


def _append(found: list[MemorySegment], item: MemorySegment) -> None:
    """Add a segment, joined to the last one where it continues it as QEMU's dump does."""
    if found:
        last = found[-1]
        joined = last.end == item.address and last.first + last.count == item.first
        if joined and last.block == item.block and last.kind == item.kind:
            found[-1] = replace(last, count=last.count + item.count)
            return
    found.append(item)


def parse_window(start: int | None, length: int | None, page_size: int) -> range | None:
    """Return the addresses that are wanted, None for all.

    Raises
    ------
    ConversionError
        If they are not whole pages.
    """
    if start is None and length is None:
        return None
    first = start or 0
    if first < 0 or first % page_size:
        raise ConversionError(f"--start must be a multiple of the page size, {page_size}")
    if length is None:
        return range(first, 1 << 64)
    if length <= 0 or length % page_size:
        raise ConversionError(f"--length must be a multiple of the page size, {page_size}")
    return range(first, first + length)


def total(segments: Iterable[MemorySegment]) -> int:
    """Return the bytes of all segments."""
    return sum(segment.length for segment in segments)
