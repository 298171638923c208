"""`savefmt.convert`: choose the form, write a nameless file, verify, sync, give it its name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from savefmt.convert import frommapped, fromsequential
from savefmt.convert.fit import fit
from savefmt.convert.outcome import Outcome
from savefmt.convert.pipeimage import PipeImage
from savefmt.convert.planning import DISCARD, ConversionRequest, TargetForm, choose_form
from savefmt.convert.room import require_room, volume_notes
from savefmt.convert.sinks import NullSink, PipeSink, Sink, file_sink, pipe_sink
from savefmt.errors import ConversionError, ImageIOError, SavefmtError, located
from savefmt.format.envelope import Envelope
from savefmt.format.mappedram import PAGES_ALIGN
from savefmt.format.wire import ByteOrder
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress, StrPath
from savefmt.native.core import NeedContentError
from savefmt.native.file import Appender
from savefmt.native.jobs import Emitter
from savefmt.native.pages import SumKey, Table
from savefmt.pipes import STANDARD_INPUT, STANDARD_OUTPUT
from savefmt.progress import Meter
from savefmt.reading.plainstream import Packing
from savefmt.reading.source import DIRECT_FROM, Source, find_source
from savefmt.reports import ConversionReport
from savefmt.writing.clones import share_rest
from savefmt.writing.imagefile import ImageOutput, check_image_output, open_image_output
from savefmt.writing.inplace import Original
from savefmt.writing.output import OutputFile
from savefmt.writing.volumes import require_apart, same_content

if TYPE_CHECKING:
    from savefmt.compat.releases import Reader

_PIPE = "-"
_CODEC_READERS = 4
"""Threads that read for a codec: more would hold windows that it is too slow to take."""


def convert(
    source: StrPath | SaveImage,
    target: StrPath,
    *,
    layout: Layout | None = None,
    codec: str | None = None,
    save_version: int | None = None,
    bare: bool = False,
    overwrite: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    readers: Sequence[Reader] = (),
    align: int = PAGES_ALIGN,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> ConversionReport:
    """Write a guest's image in another form.

    The target appears under its name only when it is complete and on the disk; on any failure
    nothing is left of it.  A block device is written directly, and begins with zeros after a
    failure. If source and target are the same file, a change of one sector is made in place.
    For any other change, a new file takes its name, owner, mode and attributes.

    Parameters
    ----------
    source : str, os.PathLike or SaveImage
        ``-`` is standard input, for sequential images.
    target : str or os.PathLike
        ``-`` is standard output, for sequential results.
    layout : Layout, optional
        Sequential or mapped-ram ("sparse"); as in the source by default.
    codec : str, optional
        Outer compression of a sequential result: ``raw``, ``gzip``, ``bzip2``, ``xz``,
        ``lzop``, ``zstd``; ``null`` reads everything and writes nothing.
    save_version : int, optional
        Of libvirt's header: 1, 2, or 3 as once proposed.
    bare : bool
        Leave libvirt's envelope out.
    overwrite : bool
        Replace an existing target, also if it is the source itself.
    verify : bool
        Read the result back and compare all pages and devices with the source's.
    dry_run : bool
        Plan and check only.
    readers : sequence of Reader
        Choose what is left open so that each of them loads the result, and leave out the parts
        of the stream that they do not know.
    align : int
        The alignment of page areas of a mapped-ram result in the file: a power of two, at least
        1 MiB, which QEMU uses; 2 MiB suits huge pages.
    io : IOOptions
        Threads, window, direct I/O, clones.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    ConversionReport
        What was done.

    Raises
    ------
    ConversionError
        If the options exclude each other or the target cannot hold the source.
    FormatError, UnsupportedError
        What is wrong with the source.
    ImageIOError
        What the operating system refused, a full disk for instance.
    ValueError
        If there is no such layout.
    """
    layout = None if layout is None else Layout(layout)
    request = ConversionRequest(layout, codec, save_version, bare, os.fspath(target) == _PIPE)
    request.check()
    _check_align(align)
    if verify and (request.to_pipe or codec == DISCARD):
        raise ConversionError("only a file can be read back for verification")
    to_file = codec != DISCARD and not request.to_pipe
    in_place = to_file and _is_same_file(source, target)
    if to_file and not in_place:
        _require_apart(source, target)
        check_image_output(target, overwrite=overwrite)
    with ExitStack() as stack:
        opened = _open_source(source, io, stack)
        _refuse_thin(opened)
        if isinstance(opened, SaveImage):
            opened.require_machine()
            opened.put_mark()
        fitted = fit(request, opened, readers, io, progress)
        form = choose_form(fitted.request, opened.envelope, opened.layout, opened.codec)
        changes = form.changes + fitted.changes
        form = replace(form, cuts=fitted.cuts, changes=changes, align=align)
        work = Conversion(opened, os.fspath(target), form, io, progress)
        work.overwrite = overwrite
        work.verify_key = SumKey.fixed() if verify else None
        with located(opened.filename):
            if in_place:
                return work.in_place(dry_run=dry_run)
            return work.dry_run() if dry_run else work.run()


def _place_of(source: StrPath | SaveImage) -> Source:
    return source.source if isinstance(source, SaveImage) else find_source(source)


def _require_apart(source: StrPath | SaveImage, target: StrPath) -> None:
    place = _place_of(source)
    for path in (place.path, *(file for _, file in place.shared)):
        require_apart(path, target)


def _is_same_file(source: StrPath | SaveImage, target: StrPath) -> bool:
    place = _place_of(source)
    try:
        return os.fspath(place) != _PIPE and same_content(os.stat(place), os.stat(target))
    except OSError:
        return False


def _open_source(
    source: StrPath | SaveImage, io: IOOptions, stack: ExitStack
) -> SaveImage | PipeImage:
    if isinstance(source, SaveImage):
        return source
    if os.fspath(source) == _PIPE:
        return PipeImage(sys.stdin.fileno(), STANDARD_INPUT)
    return stack.enter_context(SaveImage(source, io=io))


def _check_align(align: int) -> None:
    if not PAGES_ALIGN <= align <= 1 << 30 or align.bit_count() != 1:
        raise ConversionError(
            f"pages cannot be aligned to {align} bytes; take a power of two from 1 MiB to 1 GiB"
        )


def _refuse_thin(source: SaveImage | PipeImage) -> None:
    if isinstance(source, SaveImage) and source.base is not None:
        raise ConversionError(
            "this is a thin image, whose XML and stream depend on its base; savefmt detach "
            "makes an ordinary image of it",
            path=source.filename,
        )


class Conversion:
    """One conversion, planned and ready to run."""

    def __init__(
        self,
        source: SaveImage | PipeImage,
        target: str,
        form: TargetForm,
        io: IOOptions,
        progress: OnProgress | None,
    ) -> None:
        self._source = source
        self._target = target
        self._form = form
        self._io = io
        self._progress = progress
        self._sum_apart = False
        self._started = time.monotonic()
        self.overwrite = False
        self.original: Original | None = None  # the source's file, if the target takes its place
        self.sharing = False  # the stream is cloned as it is, or not written at all
        self.notes: list[str] = []
        self.verify_key: SumKey | None = None

    def in_place(self, *, dry_run: bool) -> ConversionReport:
        """Change the source itself, or let the target take its place."""
        source, form = self._source, self._form
        if not isinstance(source, SaveImage):
            raise AssertionError("a pipe is no file")
        if source.source.is_part:
            raise ConversionError(
                "the target is the file that the image is part of; name another",
                path=self._target,
            )
        alike = self._keeps_stream()
        if alike and self.verify_key is not None:
            raise ConversionError(
                "a change in place writes no page, so there is nothing to verify; leave "
                "verification out",
                path=self._target,
            )
        if alike and form.envelope == source.envelope:
            return self._report(None, None, lengths=_lengths(source.file.status), written=False)
        if not self.overwrite:
            raise ConversionError(
                "the target is the source itself; --force changes it in place", path=self._target
            )
        if alike:
            self.notes.append("only the header was changed, in place")
        if dry_run:
            return self.dry_run()
        with Original(self._target, source.state) as original:
            if not alike:
                self.original = original
                return self.run()
            if source.envelope is None or form.envelope is None:
                raise AssertionError("a bare stream has no header to change")
            old, new = source.envelope.pack(), form.envelope.pack()
            self.notes += original.rewrite(old, new, self._meter("copying"))
            lengths = _lengths(os.fstat(original.descriptor))
            return self._report(None, None, lengths=lengths)

    def _keeps_stream(self) -> bool:
        """Whether source and target differ in the header alone, which stays as long."""
        source, form = self._source, self._form
        return (
            isinstance(source, SaveImage)
            and source.is_own_file
            and (form.layout, form.codec) == (source.layout, source.codec)
            and not form.cuts
            and (form.envelope is None) == (source.envelope is None)
        )

    @property
    def _key(self) -> SumKey | None:
        """Key for summing the pages while they are converted."""
        return None if self._sum_apart else self.verify_key

    @property
    def _direct(self) -> bool:
        """Whether the target bypasses the page cache: by the guest's size, not the file's."""
        if self._io.direct is not None:
            return self._io.direct
        if isinstance(self._source, SaveImage):
            return self._source.head.blocks.total >= DIRECT_FROM
        return True

    def dry_run(self) -> ConversionReport:
        """Check what can be checked without reading pages or writing."""
        if isinstance(self._source, SaveImage) and self._source.layout is Layout.MAPPED_RAM:
            _ = self._source.mapped
        self._require_room()
        return self._report(None, None, dry_run=True)

    def run(self) -> ConversionReport:
        """Do it."""
        if self._form.codec == DISCARD:
            outcome = self._discard()
            self._refuse_changed()
            return self._report(outcome, None, written=False)
        if self._target == _PIPE:
            outcome = self._to_pipe()
            self._refuse_changed()
            return self._report(outcome, None)
        try:
            return self._to_file()
        except NeedContentError:
            if not isinstance(self._source, SaveImage):
                raise
            # A live stream with deltas: only a second pass can tell its content.
            self._sum_apart = True
            return self._to_file()

    def _refuse_changed(self) -> None:
        if isinstance(self._source, SaveImage):
            self._source.file.require_unchanged()

    def _require_room(self) -> None:
        if self._target != _PIPE and self._form.codec != DISCARD:
            meter = self._meter("measuring")
            require_room(self._source, self._form, self._target, self._io, meter)

    def _meter(self, phase: str) -> Meter:
        return Meter(self._progress, 0, phase)

    def _discard(self) -> Outcome:
        meter = self._meter("reading")
        if isinstance(self._source, SaveImage) and self._source.layout is Layout.MAPPED_RAM:
            return frommapped.read_pages(self._source, self._io, self._key, meter)
        return fromsequential.copy_stream(self._source, NullSink(), self._io, self._key, meter)

    def _to_pipe(self) -> Outcome:
        fd, name = sys.stdout.fileno(), STANDARD_OUTPUT
        if self._form.envelope is not None:
            PipeSink(fd, name).write(self._form.envelope.pack())
        return self._stream_to(lambda codec: pipe_sink(fd, name, codec, self._io))

    def _stream_to(self, open_sink: Callable[[str], Sink]) -> Outcome:
        """Send a sequential stream to the sink that is opened for a codec."""
        source, key, cuts, codec = self._source, self._key, self._form.cuts, self._form.codec
        meter = self._meter("converting")
        io = self._io if codec == "raw" else self._io.with_threads(_CODEC_READERS)

        def send(sink: Sink) -> Outcome | None:
            if not isinstance(source, SaveImage):
                return fromsequential.copy_stream(source, sink, io, key, meter, cuts)
            if source.layout is Layout.MAPPED_RAM:
                return frommapped.emit_to_sink(source, sink, io, key, meter, cuts)
            if as_stored:
                return fromsequential.copy_stored(source, sink, io, key, meter)
            return fromsequential.copy_stream(source, sink, io, key, meter, cuts)

        as_stored = (
            isinstance(source, SaveImage)
            and source.packing.packed
            and source.packing == Packing(codec)
            and not cuts
        )
        while True:
            sink = open_sink("raw" if as_stored else codec)
            try:
                outcome = send(sink)
                if outcome is not None:
                    sink.close()
                    return outcome
                as_stored = False
            finally:
                sink.abort()

    def _to_file(self) -> ConversionReport:
        envelope = self._form.envelope
        self._require_room()
        with self._begin() as output:
            offset = 0
            if envelope is not None:
                output.file.write(envelope.pack_header(finished=False) + envelope.data, 0)
                offset = envelope.stream_offset
            outcome = self._write_stream(output, offset)
            output.end_at(outcome.end)
            self._refuse_changed()
            digest = self._verify(output, outcome) if self.verify_key is not None else None
            if envelope is not None:
                output.file.sync()
                output.file.write(envelope.pack_header(finished=True), 0)
            direct = output.file.direct
            if self.original is not None and isinstance(output, OutputFile):
                self.notes += self.original.supersede(output)
            else:
                output.commit()
                self.notes += [*output.notes, *volume_notes(self._form.codec, self._target)]
        report = self._report(outcome, digest, lengths=output.lengths)
        return replace(report, direct=direct)

    def _begin(self) -> ImageOutput:
        direct, engine = self._direct, self._io.engine
        if self.original is not None:
            return self.original.successor(direct=direct, engine=engine)
        return open_image_output(
            self._target,
            overwrite=self.overwrite,
            direct=direct,
            engine=engine,
        )

    def _write_stream(self, output: ImageOutput, offset: int) -> Outcome:
        source, io, key, cuts = self._source, self._io, self._key, self._form.cuts
        if self.sharing and isinstance(source, SaveImage):
            start = source.stored_offset
            cloned = share_rest(source.file, start, output.file, offset)
            end = offset + source.file.length - start
            return replace(self._discard(), cloned=cloned, end=end)  # read, to see that it is sound
        from_mapped = isinstance(source, SaveImage) and source.layout is Layout.MAPPED_RAM
        to_mapped = self._form.layout is Layout.MAPPED_RAM
        if to_mapped and not from_mapped:
            meter = self._meter("converting")
            order = _bitmap_order(self._form.envelope)
            return fromsequential.scatter_stream(
                source, output, offset, order, io, key, meter, self._form
            )
        if isinstance(source, SaveImage) and from_mapped:
            meter = self._meter("converting")
            if to_mapped:
                return frommapped.relocate(source, output, offset, io, key, meter, self._form)
            if self._form.codec == "raw":
                records = Emitter(source.file, source.mapped.pages, None).length
                _require_space(output, offset + records)
                return frommapped.emit_to_file(source, output, offset, io, key, meter, cuts)
        appenders: list[Appender] = []

        def open_sink(codec: str) -> Sink:
            appenders.append(Appender(output.file, offset, io))
            return file_sink(appenders[-1], codec, io)

        outcome = self._stream_to(open_sink)
        return replace(outcome, end=appenders[-1].offset)

    def _verify(self, output: ImageOutput, outcome: Outcome) -> str:
        """Read the result back and compare it with the source."""
        from savefmt.reading.digests import read_state
        from savefmt.reading.memory import combine

        key = self.verify_key
        expected, devices = outcome.sums, outcome.devices
        if key is None:
            raise AssertionError("nothing to verify with")
        if expected is None:
            if not isinstance(self._source, SaveImage):
                raise AssertionError("a pipe is summed while it is read")
            meter = self._meter("reading the source again")
            source = read_state(self._source, key, self._io, meter)
            expected, devices = source.sums, source.devices_digest
        output.file.sync()
        with SaveImage(output.path, io=self._io, strict=False) as result:
            try:
                state = read_state(result, key, self._io, self._meter("verifying"))
            except SavefmtError as error:
                error.path = self._target  # its own name is yet to come
                raise
            names = dict(self._form.names)
            for name, table in expected.items():
                # A block that the result leaves out has no content (x-ignore-shared).
                for run in table.differences(
                    state.sums.get(names.get(name, name)) or Table(table.count)
                ):
                    raise ConversionError(
                        f"verification failed: page {run.first} of {name!r} differs from the "
                        "source; the disk or the memory of this host may be failing"
                    )
            if state.devices_digest != devices:
                raise ConversionError("verification failed: the device sections differ")
            return combine(result.head.blocks, state.sums)

    def _report(
        self,
        outcome: Outcome | None,
        digest: str | None,
        *,
        lengths: tuple[int, int] = (0, 0),
        written: bool = True,
        dry_run: bool = False,
    ) -> ConversionReport:
        source, form = self._source, self._form
        if isinstance(source, SaveImage):
            source_length, label = source.length, source.mislabelled
        else:
            source_length, label = source.received, False
        changes = list(form.changes)
        if isinstance(source, SaveImage) and source.head.ram is not None and not dry_run:
            changes += [
                f"the source lacks {name!r}, which was left out of it; --shared fills it in"
                for name in source.memory.left_out
            ]
        if outcome is not None and outcome.came is not None:
            changes += outcome.came.sentences(source, form.layout)
        if outcome is not None and outcome.data_pages == 0:
            changes.append("no page of the source has content")
        if label and form.envelope is not None:
            changes.append("the envelope named the wrong layout; it now names the right one")
        return ConversionReport(
            source=str(source.source if isinstance(source, SaveImage) else source.filename),
            target=self._target,
            source_layout=source.layout,
            target_layout=form.layout,
            source_codec=source.codec,
            target_codec=form.codec,
            version=form.envelope.version if form.envelope else None,
            data_pages=outcome.data_pages if outcome else None,
            cloned_length=outcome.cloned if outcome else 0,
            source_length=source_length,
            target_length=lengths[0],
            target_disk_length=lengths[1],
            seconds=time.monotonic() - self._started,
            changes=(*changes, *self.notes),
            digest=digest,
            written=written and not dry_run,
            dry_run=dry_run,
        )


def _lengths(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_blocks * 512


def _bitmap_order(envelope: Envelope | None) -> ByteOrder:
    """Bitmaps are in the order of the host that restores, which wrote the envelope."""
    return envelope.byte_order if envelope is not None else "little"


def _require_space(output: ImageOutput, length: int) -> None:
    """Refuse early what cannot fit: a sequential result has no holes."""
    free = output.room
    if free < length:
        raise ImageIOError(
            f"the result takes {length} bytes and the file system has {free} left; "
            "free some space, choose another folder, or compress the result",
            errno=28,
            path=output.target,
        )
