"""The frozen values that pass between the layers."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass

StrPath = str | os.PathLike[str]

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
    """

    threads: int = 0
    direct: bool | None = None
    window: int = 2 << 20
    engine: str = "auto"

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


@dataclass(frozen=True, slots=True)
class RamBlock:
    """One RAMBlock of the guest, as the stream lists it.

    `present` counts the pages whose content the image holds, `zero` those known
    to be zero; both are None where only a full read could tell.
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of `check`: `code` is stable, `advice` says what to do."""

    code: str
    severity: Severity
    message: str
    offset: int | None = None
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of work done so far out of `total`, which is 0 where unknown."""

    done: int
    total: int
    phase: str = ""


OnProgress = Callable[[Progress], bool | None]


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
        Bytes as `stat` counts them, and bytes allocated on disk.
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


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found; `summary` is None where not even the head could be read."""

    path: str
    level: CheckLevel
    findings: tuple[Finding, ...]
    summary: ImageSummary | None = None

    @property
    def worst(self) -> Severity | None:
        """The gravest severity, None without findings."""
        order = list(Severity)
        return max((f.severity for f in self.findings), key=order.index, default=None)

    @property
    def ok(self) -> bool:
        """No finding above a note."""
        return self.worst in (None, Severity.NOTE)


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert` did: lengths in bytes, counts in pages.

    `changes` lists, in words, everything but the layout that differs from the
    source; `digest` is set when the result was verified.
    """

    source: str
    target: str
    source_layout: Layout
    target_layout: Layout
    source_codec: str
    target_codec: str
    version: int | None
    data_pages: int | None
    source_length: int
    target_length: int
    target_disk_length: int
    seconds: float
    changes: tuple[str, ...] = ()
    digest: str | None = None
    direct: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export` did: lengths in bytes, counts in pages.

    `compat` is the layout of an ELF core, `vmcoreinfo` where that was found (``device``,
    ``memory``), `memory_length` all of the guest's memory in the result, pages of zeros
    included, `data_pages` those that are not; `files` are the names in a folder of
    blocks.  `findings` tell what is doubtful about the result.
    """

    source: str
    target: str
    format: str
    compat: str | None
    source_layout: Layout
    source_codec: str
    cpus: int
    segments: int
    memory_length: int
    data_pages: int | None
    source_length: int
    target_length: int
    target_disk_length: int
    seconds: float
    vmcoreinfo: str | None = None
    files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    direct: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class BlockDifference:
    """Pages of one block that differ, as runs; a missing block has no runs.

    `reason` is ``content``, ``length``, ``only-left`` or ``only-right``.
    """

    idstr: str
    reason: str
    page_count: int
    runs: tuple[PageRun, ...]
    page_size: int


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of a device that differs: its path, and both values as text.

    A value is None where only the other image has such a field.
    """

    path: str
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class SectionDifference:
    """A device section that differs; `reason` as in `BlockDifference`.

    `fields` is empty where the sections cannot be taken apart.
    """

    idstr: str
    instance_id: int
    reason: str
    fields: tuple[FieldDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outcome of `compare`; empty tuples mean the same guest."""

    left: str
    right: str
    blocks: tuple[BlockDifference, ...]
    sections: tuple[SectionDifference, ...]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Same memory and same devices."""
        return not self.blocks and not self.sections


@dataclass(frozen=True, slots=True)
class MapExtent:
    """A stretch of one RAM block: `start` and `length` in bytes inside the block.

    `kind` is ``data``, ``zero`` or ``absent`` (never sent); `offset` is where the
    content lies in the file, None for zeros and for compressed images.  Sequential
    pages are not adjacent in the file: page *i* of the extent lies at
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
        Where that was learned: ``stream``, ``xml`` or ``rule`` (of the machine type).
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


@dataclass(frozen=True, slots=True)
class EditReport:
    """What `edit.set_xml` did; `moved` when the stream had to make room.

    `changes` lists, in words, what now differs in the header and the XML.
    """

    path: str
    changed: bool
    moved: bool = False
    changes: tuple[str, ...] = ()


class Answer(enum.StrEnum):
    """Whether a reader can load an image."""

    YES = "yes"
    YES_BUT = "yes-but"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one release of libvirt or QEMU makes of an image.

    `conversion` holds the options of ``savefmt convert`` that turn a no into a yes, and
    is empty where none is needed or none helps.
    """

    program: str
    release: str
    answer: Answer
    reasons: tuple[str, ...] = ()
    conversion: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompatReport:
    """Who can load an image: one verdict a reader."""

    path: str
    machine: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class SavePlan:
    """How a running guest is to be saved.

    Attributes
    ----------
    form : str
        ``3``, ``2`` or ``upstream``, as it was chosen.
    version : int
        Of libvirt's header.
    format : int
        The header's field.
    features : int
        The header's word, 0 but in version 3.
    layout, codec
        Of the stream.
    capabilities : tuple of str
        To be switched on in QEMU, and off afterwards.
    channels : int
        Of multifd; 0 without it.
    direct : bool
        Whether the page cache is bypassed.
    writer : str
        ``qemu`` where QEMU writes the file itself, ``savefmt`` where the stream goes
        through us.
    descriptors : tuple of str
        Kinds of the descriptors QEMU gets: ``plain``, ``direct``, ``pipe``.
    notes : tuple of str
        What was asked for and is done otherwise.
    """

    form: str
    version: int
    format: int
    features: int
    layout: Layout
    codec: str
    capabilities: tuple[str, ...]
    channels: int
    direct: bool
    writer: str
    descriptors: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a guest is not saved as asked; `code` is stable, `advice` says what to change."""

    code: str
    reason: str
    advice: str


@dataclass(frozen=True, slots=True)
class HostReport:
    """What this host has for loading an image; None where it could not be learned.

    Attributes
    ----------
    path : str
        The image.
    libvirt : str or None
        Release of the libvirt installed.
    qemu, qemu_release : str or None
        Program or socket that was asked, and its release.
    mapped_ram, direct_io, multifd : bool or None
        What that QEMU can do.
    machine : str
        ``known``, ``deprecated``, ``absent`` or ``unasked``.
    default_ram_id : str or None
        Name that QEMU gives the main memory of this machine type.
    program : str or None
        Path of the program that decompresses the image, where libvirt needs one.
    memory_available, memory_needed : int or None
        Bytes of the host and of the guest.
    findings : tuple of Finding
        What stands in the way.
    """

    path: str
    libvirt: str | None
    qemu: str | None
    qemu_release: str | None
    mapped_ram: bool | None
    direct_io: bool | None
    multifd: bool | None
    machine: str
    default_ram_id: str | None
    program: str | None
    memory_available: int | None
    memory_needed: int
    findings: tuple[Finding, ...]
