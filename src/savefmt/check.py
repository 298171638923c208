"""Check whether an image is sound: findings with stable codes (format.md 11)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Set
from itertools import chain, islice

from savefmt.errors import (
    CorruptError,
    FormatError,
    IncompleteImageError,
    NotASaveImageError,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.domain import check_document
from savefmt.format.envelope import HEADER_LENGTH
from savefmt.format.salvagemark import find_mark
from savefmt.frozen import replace
from savefmt.guest.unsent import absent_runs, explain_unsent, is_main_memory
from savefmt.image import SaveImage
from savefmt.model import (
    CheckLevel,
    Finding,
    ImageSummary,
    IOOptions,
    Layout,
    OnProgress,
    Repair,
    Salvage,
    SalvageMark,
    Severity,
    StrPath,
)
from savefmt.native.index import BlockIndex
from savefmt.native.jobs import move_pages
from savefmt.native.pages import BlockPages, is_zero, page_runs
from savefmt.progress import Meter
from savefmt.reading.mapped import MappedStream
from savefmt.reading.patched import Patched
from savefmt.reading.source import Source, find_source, open_file
from savefmt.reading.visitors import TallyVisitor, pass_over
from savefmt.reading.walk import NO_STREAM, StreamEnd
from savefmt.reports import CheckReport
from savefmt.writing.volumes import is_volume

_ESSENTIAL = (frozenset({"timer"}), frozenset({"cpu", "cpu_common"}))
"""QEMU notices no missing section (format.md 3.3); every machine has one of each set."""

_STALE_PROBES = 4096
"""How many pages of a block, or gaps between them, are looked at for stale content."""

_EMPTY = "mappedram.empty"
_OTHER_MACHINE = "envelope.machine"

UNSUPPORTED = "image.unsupported"
"""Code of what savefmt cannot judge, which is no damage."""

_REST = "`savefmt salvage` writes what can be read of it"

_CODES: list[tuple[type[SavefmtError], str, str]] = [
    (IncompleteImageError, "envelope.incomplete", "save the guest again"),
    (TruncatedError, "image.truncated", f"get a complete copy of the file; {_REST}"),
    (CorruptError, "image.corrupt", f"get another copy; do not load this one; {_REST}"),
    (FormatError, "image.corrupt", f"get another copy; do not load this one; {_REST}"),
    (
        UnsupportedError,
        UNSUPPORTED,
        "this does not mean that the image is damaged: QEMU itself may load it",
    ),
]


def _is_pc(image: SaveImage) -> bool:
    from savefmt.guest.evidence import evidence_of  # which knows all architectures

    try:
        return "x86_64" in evidence_of(image, devices=False).names
    except (FormatError, UnsupportedError):
        return False


def _holds(index: BlockIndex) -> bool:
    """Whether any page of a block has content."""
    return any(run.kind not in ("absent", "zero") for run in index.runs())


def check(
    path: StrPath,
    *,
    level: CheckLevel = CheckLevel.QUICK,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> CheckReport:
    """Check an image against the format's rules.

    Parameters
    ----------
    path : str or os.PathLike
        The image.
    level : CheckLevel
        Quick looks at headers, block list, bitmaps and what can be found at the end;
        full reads every page record or page too.
    io : IOOptions
        How pages are read.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    CheckReport
        Its findings; what stops the check early is a finding too.

    Raises
    ------
    NotASaveImageError
        If it is not a save image.
    ImageIOError
        What the operating system refused.
    ValueError
        If there is no such level.
    """
    level = CheckLevel(level)
    source = find_source(path)
    image, wrong, opens = _opened(source, io)
    if image is None:
        return CheckReport(os.fspath(path), level, _repairable(wrong, source))
    with image:
        if image.rescue is not None:
            image.findings += damage_findings(image.rescue.report)
        checker = _Checker(image, level, io, progress)
        checker.run()
        found = _repairable([*wrong, *checker.findings], source, image)
        return CheckReport(os.fspath(path), level, found, checker.summary if opens else None)


def _opened(source: Source, io: IOOptions) -> tuple[SaveImage | None, list[Finding], bool]:
    """Open an image, if need be with the header that it should have.

    Returns
    -------
    SaveImage or None
        To be closed; None where nothing helps.
    list of Finding
        What is wrong with the header, or the error.
    bool
        Whether the image opens as it is.
    """
    image, errors = _try(source, io)
    wrong_cookie = image is not None and any(f.repair is Repair.COOKIE for f in image.findings)
    right = None
    if (image is None or wrong_cookie) and not source.salvage:
        from savefmt.reading.trueheader import find_true_header

        with open_file(source, io) as file:
            right = find_true_header(file.read, file.length)
    if right is None:
        return image, errors, image is not None
    if image is not None:
        image.close()
    patched = (source.repaired or Patched(())).with_header(right.data)
    second, more = _try(replace(source, repaired=patched), io)
    # A format number that is not known here may be a newer libvirt's.
    unknown = next((one for one in errors if one.code == UNSUPPORTED), None)
    wrong = [
        replace(unknown, repair=one.repair)
        if unknown is not None and one.repair is Repair.FORMAT
        else one
        for one in right.findings
    ]
    return second, [*wrong, *more], image is not None


def _try(source: Source, io: IOOptions) -> tuple[SaveImage | None, list[Finding]]:
    try:
        return SaveImage(source, io=io, strict=False), []
    except NotASaveImageError:
        raise
    except (FormatError, UnsupportedError) as error:
        return None, [finding_of(error)]


def _repairable(
    findings: Iterable[Finding], source: Source, image: SaveImage | None = None
) -> tuple[Finding, ...]:
    """Leave repairs out that cannot be made: of what is no file of its own, or a device."""
    own = not replace(source, repaired=None).is_part
    if image is not None:
        own = own and image.outer == "raw" and image.dump is None and image.base is None
    fixed_length = is_volume(source)
    return tuple(
        one
        if own and not (fixed_length and one.repair is Repair.TRAILING)
        else replace(one, repair=None)
        for one in dict.fromkeys(findings)
    )


def damage_findings(report: Salvage) -> Iterator[Finding]:
    """Return what was passed over in a damaged image, as findings."""
    for damage in report.damages:
        advice = "the rest can be read; `savefmt salvage` writes an image of it"
        code = f"salvage.{damage.kind}"
        yield Finding(code, Severity.ERROR, damage.message, max(damage.offset, 0), advice)
    for block in report.blocks:
        if block.lost:
            message = f"{block.lost} of {block.pages} pages of {block.idstr!r} are lost"
            yield Finding("salvage.lost", Severity.ERROR, message, None, "--lost FILE lists them")
    for note in report.notes:
        yield Finding("salvage.note", Severity.NOTE, note)


def finding_of(error: SavefmtError) -> Finding:
    """Return an error as a finding."""
    for kind, code, advice in _CODES:
        if isinstance(error, kind):
            return Finding(code, Severity.ERROR, error.message, error.offset, advice)
    raise error


class _Checker:
    def __init__(
        self, image: SaveImage, level: CheckLevel, io: IOOptions, progress: OnProgress | None
    ) -> None:
        self._image = image
        self._full = level == CheckLevel.FULL
        self._io = io
        self._progress = progress
        self.findings = image.findings
        self.summary: ImageSummary | None = None
        self._end: StreamEnd | None = None

    def run(self) -> None:
        steps = [self._envelope, self._capabilities, self._stream, self._finished, self._summarize]
        if self._image.head is NO_STREAM:
            steps = [self._envelope, self._finished, self._summarize]
        for step in steps:
            try:
                step()
            except (FormatError, UnsupportedError) as error:
                self.findings.append(finding_of(error))
        self._image.file.require_unchanged()

    def _note(
        self, code: str, severity: Severity, message: str, offset: int | None, advice: str
    ) -> None:
        self.findings.append(Finding(code, severity, message, offset, advice))

    def _summarize(self) -> None:
        self.summary = self._image.summary()
        mark = self.summary.salvaged
        if mark is None and self._image.ending is not None:
            mark = find_mark(self._image.ending.description)
        if mark is not None:
            self._salvaged(mark)

    def _salvaged(self, mark: SalvageMark) -> None:
        counted = (f"{count} pages of {name!r}" for name, count in mark.lost.items())
        lost = [*counted, *([f"{mark.unlisted} bytes in unknown blocks"] * bool(mark.unlisted))]
        lost += [] if mark.devices_whole else ["device sections"]
        said = f"lost: {', '.join(lost)}" if lost else "nothing tells how much of it is lost"
        self._note(
            "image.salvaged",
            Severity.WARNING,
            f"salvaged from a damaged image; {said}",
            None,
            "the guest finds zeros where its memory is lost, so do not let it continue its work",
        )

    def _envelope(self) -> None:
        image = self._image
        envelope = image.envelope
        if envelope is None:
            return
        if image.mislabelled:
            from savefmt.reading.trueheader import mislabelled

            form = "sparse" if image.head.mapped else image.codec
            self.findings.append(mislabelled(envelope.stream_format, form))
        self._documents()

    def _documents(self) -> None:
        envelope = self._image.envelope
        if envelope is None:
            return
        domain = self._image.domain  # notes what is wrong with it
        if envelope.cookie is not None:
            try:
                check_document(envelope.cookie, "cookie", at=HEADER_LENGTH + envelope.cookie_offset)
            except FormatError as error:
                self._note(
                    "envelope.cookie",
                    Severity.WARNING,
                    f"the cookie is damaged: {error.message}",
                    error.offset,
                    "libvirt takes the CPU model of the running guest from it",
                )
        machines = domain.machine if domain is not None else None, self._image.machine
        if all(machines) and machines[0] != machines[1]:
            self._note(
                _OTHER_MACHINE,
                Severity.WARNING,
                f"the XML names machine {machines[0]}, the stream {machines[1]}",
                self._image.stream_offset,
                "QEMU refuses a machine that differs",
            )

    def _finished(self) -> None:
        """Say first of all that a save never finished, and whether the stream is whole."""
        if not self._is_unfinished():
            return
        lack = self._lack()
        advice = (
            "the stream is whole, so the guest can be restored; but it may have run on since, "
            "and changed its disks"
            if lack is None
            else f"save the guest again; libvirt refuses this file: {lack}"
        )
        finding = Finding(
            "envelope.incomplete",
            Severity.ERROR,
            'the save never finished (libvirt\'s "Part" magic)',
            0,
            advice,
            Repair.MAGIC if lack is None else None,
        )
        self.findings.insert(0, finding)

    def _lack(self) -> str | None:
        """Tell why the stream of an unfinished image is not known to be whole."""
        head, end = self._image.head, self._end
        if is_volume(self._image.filename):
            return "an older save may be what follows the header on this device"
        if head is NO_STREAM:
            return "QEMU has not begun to write to it"
        for one in self.findings:
            error = one.severity is Severity.ERROR and one.repair is None
            if error or one.code in (_EMPTY, _OTHER_MACHINE):
                return one.message
        if end is None:
            return "its end was not checked; --full does that"
        if head.ram is None:
            return "its stream has no RAM"
        return end.missing if end.ram_end is not None else "RAM has no END section"

    def _capabilities(self) -> None:
        configuration = self._image.configuration
        if configuration is None:
            self._note(
                "stream.no-configuration",
                Severity.NOTE,
                "the stream has no configuration section",
                self._image.stream_offset + 8,
                "only machine types before QEMU 2.4 send none",
            )
            return
        if self._image.head.mapped and IGNORE_SHARED in configuration.capabilities:
            self._note(
                "stream.ignore-shared",
                Severity.WARNING,
                "the image uses mapped-ram together with x-ignore-shared",
                configuration.offset,
                "QEMU loads such an image from release 11.0 on",
            )
        if not configuration.machine.isprintable():
            self._note(
                "stream.machine-name",
                Severity.WARNING,
                "the machine type holds control characters",
                configuration.offset,
                "treat the file as hostile",
            )

    def _stream(self) -> None:
        if self._image.layout is Layout.MAPPED_RAM:
            self._mapped()
        elif self._image.packing.packed and not self._full:
            self._note(
                "stream.end-unseen",
                Severity.NOTE,
                "a quick check does not unpack the image, so it did not see the end of the stream",
                None,
                "--full does",
            )
        # A quick check ends here where the end of the file looks as it should.
        elif self._full or self._is_unfinished() or self._image.claimed_sections() is None:
            self._sequential()

    def _is_unfinished(self) -> bool:
        envelope = self._image.envelope
        return envelope is not None and not envelope.finished

    def _mapped(self) -> None:
        image = self._image
        stream = image.mapped
        held = {pages.name for pages in stream.pages if pages.present}
        if not held:
            self._empty(stream)
        if held or stream.end.ram_end is not None:
            self._main_memory({b.idstr for b in stream.blocks.blocks if b.name in held})
        stale = self._stale_bytes()
        if stale:
            self._note(
                "mappedram.stale",
                Severity.NOTE,
                f"at least {stale} bytes of old page content are left in the file, on pages "
                "whose bits are clear",
                None,
                "normal after a live save; `savefmt convert -O sparse` leaves them out",
            )
        self._ending(stream.end)
        if self._full:
            total = sum(pages.present * pages.page_size for pages in stream.pages)
            meter = Meter(self._progress, total, "reading")
            move_pages(image.file, stream.pages, self._io, meter.update)

    def _empty(self, stream: MappedStream) -> None:
        """No page has content: lost in a background snapshot, which has no END, or all zero."""
        lost = stream.end.ram_end is None
        self._note(
            _EMPTY,
            Severity.ERROR if lost else Severity.NOTE,
            "all page bitmaps are empty: the guest's RAM is "
            + ("not in this image" if lost else "zero"),
            stream.ram.offset,
            "a background snapshot does that; save the guest again"
            if lost
            else "rare, except with a guest that never ran",
        )

    def _main_memory(self, held: Set[str]) -> None:
        """Refuse a PC without memory; `held` are the blocks with content."""
        image = self._image
        blocks = image.head.blocks.blocks
        memory = {block.idstr for block in blocks if is_main_memory(block.idstr)}
        ignores = IGNORE_SHARED in image.capabilities or any(block.ignored for block in blocks)
        if ignores or not memory or memory & held or not _is_pc(image):
            return
        self._note(
            "ram.main-absent",
            Severity.ERROR,
            f"no page of the guest's memory ({min(memory)!r}) has content: the memory is not "
            "in this image",
            None,
            "this happens when a guest that runs on this file is saved onto it; look for "
            "another copy, or for the image that the guest was cloned from",
        )

    def _stale_bytes(self) -> int:
        """Bytes found under clear bits; a fragmented image is only sampled."""
        stale = 0
        for pages in self._image.mapped.pages:
            for page in islice(self._stored_but_clear(pages), _STALE_PROBES):
                # Allocated does not mean written: the file system may round up.
                place = pages.offset + page * pages.page_size
                if not is_zero(self._image.file.read(pages.page_size, place)):
                    stale += pages.page_size
        return stale

    def _stored_but_clear(self, pages: BlockPages) -> Iterator[int]:
        """Yield pages whose bit is clear though the file is no hole there."""
        size = pages.page_size
        at = 0
        runs = chain(page_runs(pages.bitmap, pages.count), [None])
        for run in islice(runs, _STALE_PROBES):
            end = pages.count if run is None else run.first
            for offset, length in self._image.file.extents(
                pages.offset + at * size, pages.offset + end * size
            ):
                first = (offset - pages.offset) // size
                yield from range(first, (offset + length - pages.offset - 1) // size + 1)
            if run is None:
                return
            at = run.first + run.count

    def _sequential(self) -> None:
        image = self._image
        visitor = TallyVisitor(None, image.filename)
        meter = Meter(self._progress, image.length, "reading")
        end = pass_over(image, visitor, self._io, meter, findings=self.findings)
        counts = visitor.scanner.counts if visitor.scanner is not None else None
        if counts is not None and counts.flushes and not counts.pages:
            self._note(
                "ram.multifd-capture",
                Severity.ERROR,
                "the pages went through other multifd channels and are not in this file",
                None,
                "save the guest to a file instead of capturing a socket",
            )
        self._missing_pages(visitor)
        self._ending(end)

    def _missing_pages(self, visitor: TallyVisitor) -> None:
        image, indexes = self._image, visitor.indexes
        for unsent in explain_unsent(image, map(absent_runs, indexes)):
            self._note(
                "ram.missing-pages",
                Severity.NOTE if unsent.reason else Severity.WARNING,
                str(unsent),
                None,
                "QEMU keeps the content that the new guest has there"
                if unsent.reason
                else "QEMU sends every page, so whole records are missing from the file: get "
                "another copy; `savefmt salvage` writes an image that says what is lost",
            )
        blocks = image.head.blocks.blocks
        self._main_memory(
            {block.idstr for block, index in zip(blocks, indexes, strict=True) if _holds(index)}
        )

    def _ending(self, end: StreamEnd) -> None:
        """Check what the stream ends in."""
        self._end = end
        if end.ram_end is None and self._image.head.ram is not None:
            self._note(
                "ram.no-end",
                Severity.NOTE,
                "RAM has no END section, as in background snapshots",
                end.eof,
                "QEMU loads it anyway",
            )
        if end.description is None:
            self._note(
                "vmdescription.missing",
                Severity.NOTE,
                "the stream has no vmdescription",
                end.eof,
                "QEMU needs none",
            )
        if end.missing is not None:
            self._note(
                "stream.unknown-sections",
                Severity.NOTE,
                f"{end.missing}, so the sections after it cannot be told apart",
                end.eof,
                "QEMU knows these lengths itself",
            )
            return
        names = {section.idstr for section in end.sections}
        for essential in _ESSENTIAL:
            if not essential & names:
                self._note(
                    "stream.section-missing",
                    Severity.WARNING,
                    f"there is no {min(essential)!r} section",
                    end.eof,
                    "QEMU would load the image and run a guest without that state",
                )
        self._extra(end)

    def _extra(self, end: StreamEnd) -> None:
        if end.description is None:
            return
        present = {(section.idstr, section.instance_id) for section in end.sections}
        extra = set(end.description.sections) - present
        if extra:
            idstr, instance = min(extra)
            self._note(
                "vmdescription.extra",
                Severity.WARNING,
                f"the vmdescription describes {len(extra)} sections that are not in the "
                f"stream, for example {idstr!r} {instance}",
                end.description.offset,
                "the image may be forged or damaged",
            )
