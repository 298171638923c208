"""The results of the commands: frozen values, made once and passed on."""

from __future__ import annotations

import enum
from typing import ClassVar

from savefmt.frozen import dataclass
from savefmt.model import CheckLevel, Finding, ImageSummary, Layout, PageRun, Repair, Severity


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found; `summary` is None if even the head could not be read."""

    path: str
    level: CheckLevel
    findings: tuple[Finding, ...]
    summary: ImageSummary | None = None

    COMPUTED: ClassVar = ("ok", "worst")

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
    source; `digest` is set when the result was verified; `written` is False where there
    was nothing to do; `cloned_length` counts pages that the target shares with the source,
    or that a server copied.
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
    written: bool = True
    dry_run: bool = False
    cloned_length: int = 0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export` did: lengths in bytes, counts in pages.

    `compat` is the layout of an ELF core, `vmcoreinfo` where that was found (``device``,
    ``memory``), `memory_length` all of the guest's memory in the result, including pages of
    zeros, `data_pages` the other pages; `files` are the names in a folder of blocks. `findings`
    are doubts about the result, and `cloned_length` counts the bytes of pages that it shares
    with the image.
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
    cloned_length: int = 0


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

    A value is None if only the other image has that field.
    """

    path: str
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class SectionDifference:
    """A device section that differs; `reason` as in `BlockDifference`.

    `fields` is empty if the sections cannot be decoded.
    """

    idstr: str
    instance_id: int
    reason: str
    fields: tuple[FieldDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of `compare`; empty tuples mean the same guest, except for `lost` pages.

    These are lost in one image or the other, both damaged, and were not compared.
    """

    left: str
    right: str
    blocks: tuple[BlockDifference, ...]
    sections: tuple[SectionDifference, ...]
    notes: tuple[str, ...] = ()
    lost: int = 0

    COMPUTED: ClassVar = ("same",)

    @property
    def same(self) -> bool:
        """Same memory and same devices."""
        return not self.blocks and not self.sections


@dataclass(frozen=True, slots=True)
class EditReport:
    """What `edit.set_xml` did, or would do; `moved` when the stream has to make room.

    `changes` lists, in words, what now differs in the header and the XML.
    """

    path: str
    changed: bool
    moved: bool = False
    changes: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What one repair would change, in words, and how many bytes it changes or cuts off.

    `codes` are those of the findings that it puts right.
    """

    repair: Repair
    codes: tuple[str, ...]
    change: str
    length: int


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` can do, or did.

    Attributes
    ----------
    path : str
        The image.
    target : str
        What was written to: the image itself, or a copy of it.
    offers : tuple of Offer
        All that can be repaired.
    made : tuple of Repair
        Those that were asked for; empty where that was only to list them.
    findings : tuple of Finding
        What is left: where nothing was asked for, all that is wrong.
    replaced : bool
        Whether a new file took the place of the image.
    changes : tuple of str
        What else is worth telling, in words.
    dry_run : bool
        Nothing was written.
    """

    path: str
    target: str
    offers: tuple[Offer, ...]
    made: tuple[Repair, ...]
    findings: tuple[Finding, ...]
    replaced: bool = False
    changes: tuple[str, ...] = ()
    dry_run: bool = False

    COMPUTED: ClassVar = ("ok",)

    @property
    def ok(self) -> bool:
        """No error is left."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


class Answer(enum.StrEnum):
    """Whether a reader can load an image."""

    YES = "yes"
    YES_BUT = "yes-but"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one release of libvirt or QEMU makes of an image.

    `conversion` holds the options of ``savefmt convert`` that turn a no into a yes, and
    is empty where none is needed or none helps.  `system` names the distribution whose
    release it is, and is empty for the release as such.
    """

    program: str
    release: str
    answer: Answer
    reasons: tuple[str, ...] = ()
    conversion: tuple[str, ...] = ()
    system: str = ""


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
        What prevents the image from loading.
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


class Presence(enum.StrEnum):
    """Whether this host has what a guest needs."""

    HERE = "here"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a restore needs.

    Attributes
    ----------
    kind : str
        Such as ``file``, ``network`` or ``CPU``.
    name : str
        Its path, name or address.
    use : str
        What the guest has it for.
    presence : Presence
        Whether it is here; ``unknown`` where nobody looked, or nobody can tell.
    reason : str
        Why, where that is not plain.
    """

    kind: str
    name: str
    use: str
    presence: Presence
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NeedsReport:
    """What a guest needs in addition to its image.

    Attributes
    ----------
    path : str
        The image.
    guest : str
        Its name, empty where the image has none.
    looked : bool
        Whether this host was searched for it.
    needs : tuple of Need
        Programs first, then what the XML names.
    missing : int
        How many of them are not here.
    """

    path: str
    guest: str
    looked: bool
    needs: tuple[Need, ...]

    COMPUTED: ClassVar[tuple[str, ...]] = ("missing",)

    @property
    def missing(self) -> int:
        """How many needs are not here."""
        return sum(need.presence is Presence.MISSING for need in self.needs)
