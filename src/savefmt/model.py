"""The frozen values that pass between the layers."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from savefmt.frozen import dataclass, replace

StrPath = str | os.PathLike[str]

SCHEMA = 1
"""Of all JSON: rises when a member goes away or changes its meaning, not when one is added."""

ENGINES = ("auto", "psync", "io_uring")
"""What can move the bytes of a file."""


class Layout(enum.StrEnum):
    """How the stream keeps its pages."""

    SEQUENTIAL = "sequential"
    MAPPED_RAM = "mapped-ram"


class Severity(enum.StrEnum):
    """How bad a finding is, best first."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class CheckLevel(enum.StrEnum):
    """How much `check` reads."""

    QUICK = "quick"
    FULL = "full"


class Pace(Protocol):
    """How much at a time, by how many threads: all that the C core wants of `IOOptions`."""

    @property
    def window(self) -> int:
        """Bytes that a thread moves at a time."""

    @property
    def worker_count(self) -> int:
        """Threads to start."""


@dataclass(frozen=True, slots=True)
class IOOptions:
    """How the engine reads and writes; zero and None mean "choose".

    Parameters
    ----------
    threads : int
        Worker threads.
    direct : bool or None
        Bypass the page cache; a file system's refusal is no failure.
    window : int
        Bytes moved at a time by one thread, a power of two.
    engine : str
        One of `ENGINES`: ``psync`` waits for each request, ``io_uring`` has many under
        way, ``auto`` takes io_uring where the kernel grants it.
    clone : bool
        Share pages with the source instead of copying them, where the file system can.
    """

    threads: int = 0
    direct: bool | None = None
    window: int = 2 << 20
    engine: str = "auto"
    clone: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 64:
            raise ValueError(f"threads must be 0 to 64, not {self.threads}")
        if not (1 << 20) <= self.window <= (64 << 20) or self.window.bit_count() != 1:
            raise ValueError(f"window must be a power of 2 from 1 to 64 MiB, not {self.window}")
        if self.engine not in ENGINES:
            raise ValueError(f"no engine {self.engine!r}; there are {', '.join(ENGINES)}")

    @property
    def worker_count(self) -> int:
        """Threads to start: as asked, else one per usable core, at most 8."""
        return self.threads or min(len(os.sched_getaffinity(0)), 8)

    def with_threads(self, most: int) -> IOOptions:
        """Return the same with no more than so many threads, for what cannot use them."""
        return replace(self, threads=min(self.worker_count, most))


@dataclass(frozen=True, slots=True)
class RamBlock:
    """One RAMBlock of the guest, as the stream lists it.

    `present` counts the pages whose content the image holds, `zero` the pages known to be zero.
    Both are None if only a full read could tell.
    """

    idstr: str
    used_length: int
    page_size: int
    present: int | None = None
    zero: int | None = None
    ignored: bool = False
    guest_address: int | None = None

    @property
    def page_count(self) -> int:
        """Target pages in the block."""
        return self.used_length // self.page_size


@dataclass(frozen=True, slots=True)
class PageRun:
    """Neighbouring pages of one block: `first`, and how many."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Section:
    """A device section: `offset` and `length` frame its payload in the stream.

    `offset` counts from the start of the (decompressed) file; both are None where
    the section is known from the vmdescription only.
    """

    idstr: str
    instance_id: int
    version: int | None = None
    section_id: int | None = None
    offset: int | None = None
    length: int | None = None


class Repair(enum.StrEnum):
    """What `savefmt repair` can put right, in the order of the file."""

    MAGIC = "magic"
    LENGTH = "length"
    FORMAT = "format"
    COOKIE = "cookie"
    STRAY_BITS = "stray-bits"
    TRAILING = "trailing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of `check`: `code` is stable, `advice` says what to do.

    `repair` puts it right, where something does.
    """

    code: str
    severity: Severity
    message: str
    offset: int | None = None
    advice: str = ""
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a damaged image that was passed over.

    Attributes
    ----------
    offset, end : int
        In the file: the offset of its first byte, and the offset behind its last byte.
    kind : str
        ``cut`` (the file ends there), ``damaged`` (what is there breaks the format),
        ``unreadable`` (the system refused to read it), ``listed`` (a ddrescue map says so) or
        ``guessed`` (nothing tells which pages are valid).
    message : str
        What is wrong there.
    """

    offset: int
    end: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class SalvagedBlock:
    """What could be had of a RAM block, in pages.

    Attributes
    ----------
    idstr : str
        Its name.
    pages : int
        All of them.
    lost : int
        Those whose content is not known.
    """

    idstr: str
    pages: int
    lost: int


@dataclass(frozen=True, slots=True)
class Salvage:
    """What was recovered of a damaged image.

    Attributes
    ----------
    damages : tuple of Damage
        In the order of the file.
    blocks : tuple of SalvagedBlock
        In file order.
    share : float
        Of the guest's memory that was recovered, 0 to 1.
    unlisted : int
        Bytes of memory in blocks whose very names are lost.
    repeated : int
        Pages that came more than once in what could be read: the guest ran while it was saved.
    devices_whole : bool
        Whether all device sections are there.
    missing_devices : tuple of str
        Those that are known to be lost.
    notes : tuple of str
        How sure all this is.
    """

    damages: tuple[Damage, ...]
    blocks: tuple[SalvagedBlock, ...]
    share: float
    unlisted: int = 0
    repeated: int = 0
    devices_whole: bool = True
    missing_devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        """Pages of all blocks whose content is not known."""
        return sum(block.lost for block in self.blocks)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with the image after all."""
        return not self.damages and not self.lost and self.devices_whole and not self.unlisted


@dataclass(frozen=True, slots=True)
class SalvageMark:
    """What an image says of itself that was salvaged from a damaged one.

    Attributes
    ----------
    lost : mapping of str to int
        Pages that are lost, by idstr of their block; they are zeros or missing.
    unlisted : int
        Bytes of memory in blocks whose very names are lost.
    devices_whole : bool
        Whether all device sections are there.
    """

    lost: Mapping[str, int]
    unlisted: int = 0
    devices_whole: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of work done so far out of `total`, which is 0 where unknown."""

    done: int
    total: int
    phase: str = ""


OnProgress = Callable[[Progress], bool | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An internal snapshot of a qcow2 disk image.

    Attributes
    ----------
    identity, name : str
        QEMU takes either, and names need not be unique.
    date : float
        When it was made, seconds since the epoch.
    clock : int
        How long the guest had run at that time, in nanoseconds.
    state_length : int
        Bytes of the guest's state; 0 for a snapshot of the disk alone.
    complete : bool or None
        Whether all of the state is there; None without a state, or if finding out takes a full
        read.
    """

    identity: str
    name: str
    date: float
    clock: int
    state_length: int
    complete: bool | None


@dataclass(frozen=True, slots=True)
class EnvelopeSummary:
    """The libvirt header in words."""

    version: int
    byte_order: str
    data_length: int
    xml_length: int
    cookie_length: int
    was_running: bool
    format: int
    format_name: str
    features: int


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """What `probe` learns from the headers alone.

    Attributes
    ----------
    path : str
        The image.
    state : str
        ``finished``, ``incomplete`` (libvirt's "Part" magic) or ``bare`` (no envelope).
    envelope : EnvelopeSummary or None
        None for a bare stream.
    mislabelled : bool
        The envelope says sparse and the stream is sequential, or the reverse.
    domain_name, domain_uuid, domain_type : str or None
        From the domain XML.
    saved : float or None
        When the file was last written, seconds since the epoch.
    layout, codec, machine, capabilities, uuid, page_size
        From the stream's header and configuration section.
    stream_offset : int
        Where the (perhaps compressed) stream begins in the file.
    blocks : tuple of RamBlock
        In file order.
    sections : tuple of Section or None
        Device sections; None where only a full read could tell.
    logical_length, disk_length : int
        Bytes of the image, and bytes allocated on disk.
    outer : str
        What compresses the file as a whole; ``raw`` if nothing does.
    offset : int
        Where in the file the image begins; all other offsets count from there.
    snapshot : Snapshot or None
        The snapshot of a disk image in which it is.
    sections_proved : bool
        Whether the stream was walked to its end.  Otherwise `sections` are those at the end of
        the file, which may be the rest of an older and longer image.
    base : str or None
        The image that the memory of a thin one lies in.
    shared : tuple of str
        Blocks that were filled in from files of their own.
    dump : str or None
        The kind of memory dump, if the file is one and not an image; offsets then belong to a
        stream that savefmt makes up around the dump.
    salvage : Salvage or None
        What was recovered, where the image was opened to salvage it.
    salvaged : SalvageMark or None
        What was lost when the image was written, if it was salvaged from a damaged one.
    """

    path: str
    state: str
    envelope: EnvelopeSummary | None
    mislabelled: bool
    domain_name: str | None
    domain_uuid: str | None
    domain_type: str | None
    saved: float | None
    layout: Layout
    codec: str
    machine: str
    capabilities: tuple[str, ...]
    uuid: str | None
    page_size: int
    stream_offset: int
    blocks: tuple[RamBlock, ...]
    sections: tuple[Section, ...] | None
    logical_length: int
    disk_length: int
    outer: str = "raw"
    offset: int = 0
    snapshot: Snapshot | None = None
    sections_proved: bool = True
    base: str | None = None
    shared: tuple[str, ...] = ()
    dump: str | None = None
    salvage: Salvage | None = None
    salvaged: SalvageMark | None = None


@dataclass(frozen=True, slots=True)
class DiskSummary:
    """A qcow2 disk image and its internal snapshots.

    Attributes
    ----------
    path : str
        The disk image.
    snapshots : tuple of Snapshot
        All of them, also those of the disk alone.
    """

    path: str
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True, slots=True)
class MapExtent:
    """A stretch of one RAM block: `start` and `length` in bytes inside the block.

    `kind` is ``data``, ``zero``, ``absent`` (never sent) or, in a damaged image, ``lost``;
    `offset` is where the content lies in the file, None for zeros and for compressed images.
    Sequential pages are not adjacent in the file: page *i* of the extent lies at
    ``offset + i * stride``.
    """

    block: str
    start: int
    length: int
    kind: str
    offset: int | None
    stride: int | None


@dataclass(frozen=True, slots=True)
class PhysicalRange:
    """A stretch of guest-physical addresses behind which a RAM block lies.

    Attributes
    ----------
    start, length : int
        Guest-physical, in bytes.
    block : str
        idstr of the RAM block.
    offset : int
        Where in the block the first byte lies.
    kind : str
        ``ram``, ``rom``, ``vram``, ``dimm`` or ``virtio-mem``.
    source : str
        Where that was learned: ``stream``, ``xml``, ``rule`` (of the machine type), or ``said``
        by the caller.
    detail : str
        How, in words.
    """

    start: int
    length: int
    block: str
    offset: int
    kind: str
    source: str
    detail: str = ""

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.start + self.length
