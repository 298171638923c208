"""`export()`: an image in a format of other tools."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from savefmt.errors import ConversionError, FormatError, UnsupportedError, located
from savefmt.export import blocks, core, kdump, kernel, vmcoreinfo
from savefmt.export.lime import plan_lime
from savefmt.export.placing import Written, write_pages
from savefmt.export.plans import Plan
from savefmt.export.raw import plan_raw
from savefmt.export.stretches import MemorySegment, find_segments, parse_window, total
from savefmt.frozen import dataclass, replace
from savefmt.image import SaveImage
from savefmt.model import Finding, IOOptions, OnProgress, Severity, StrPath
from savefmt.progress import Meter
from savefmt.reading.atend import believe_end, is_belied
from savefmt.reading.source import DIRECT_FROM
from savefmt.reading.walk import StreamEnd
from savefmt.reports import ExportReport
from savefmt.writing.outfolder import OutputFolder, check_folder
from savefmt.writing.output import OutputFile, check_target

FORMATS = ("elf", "raw", "lime", "blocks", "vmcoreinfo", "kdump")
COMPATS = ("universal", "qemu")


def export(
    source: StrPath | SaveImage,
    target: StrPath,
    *,
    format: str = "elf",
    compat: str = "universal",
    kernel_va: bool = False,
    start: int | None = None,
    length: int | None = None,
    places: Mapping[str, int] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> ExportReport:
    """Write a guest's memory in a format that other tools read.

    The target appears under its name only when it is complete and on the disk; on any
    failure nothing is left of it.

    Parameters
    ----------
    source : str, os.PathLike or SaveImage
        In any form.
    target : str or os.PathLike
        A file; a folder with ``blocks``.
    format : str
        ``elf``: a core with the vCPUs' registers.  ``raw``: the offset is the
        guest-physical address.  ``lime``.  ``blocks``: one file a RAM block.
        ``vmcoreinfo``: the text of the Linux kernel.  ``kdump``: by makedumpfile.
    compat : str
        Layout of an ELF core: ``universal``, which all tools read, or ``qemu``, the
        very bytes of QEMU's dump-guest-memory.
    kernel_va : bool
        Offer the kernel's virtual addresses in the ELF core, too, for gdb.
    start, length : int, optional
        Guest-physical addresses to export, whole pages; by default all.
    places : mapping of str to int, optional
        Where blocks of a `source` that is not open yet lie, as for `savefmt.open`.
    overwrite : bool
        Replace an existing target.
    dry_run : bool
        Plan and check only.
    io : IOOptions
        Threads, window, direct I/O.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    ExportReport
        What was done, and what is doubtful about it.

    Raises
    ------
    ConversionError
        If the options exclude each other, or the memory map contradicts itself.
    FormatError, UnsupportedError
        What is wrong with the source.
    ImageIOError
        What the operating system refused, a full disk for instance.
    """
    request = Request(format, compat, kernel_va, start, length)
    request.check()
    if format == "blocks":
        check_folder(target, overwrite=overwrite)
    else:
        check_target(target, overwrite=overwrite)
    if isinstance(source, SaveImage):
        return _Export(source, target, request, overwrite, io, progress).run(dry_run)
    with SaveImage(source, io=io, places=places) as image:
        believed = None if dry_run or image.rescue is not None else believe_end(image)
        try:
            made = _Export(image, target, request, overwrite, io, progress, believed)
            return made.run(dry_run)
        except (ConversionError, FormatError, UnsupportedError):
            if believed is None or not is_belied(image, believed):
                raise
    with SaveImage(source, io=io, places=places) as image:  # now by a pass of its own
        return _Export(image, target, request, overwrite, io, progress).run()


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller asked for; see `export`."""

    format: str
    compat: str
    kernel_va: bool
    start: int | None
    length: int | None

    def check(self) -> None:
        """Refuse options that exclude each other."""
        if self.format not in FORMATS:
            raise ConversionError(f"unknown format {self.format!r}; there are {', '.join(FORMATS)}")
        if self.compat not in COMPATS:
            raise ConversionError(f"unknown layout {self.compat!r}; there are {', '.join(COMPATS)}")
        windowed = self.start is not None or self.length is not None
        qemu = self.compat == "qemu"
        for wrong, words in (
            (qemu and self.format != "elf", "--compat qemu is for -O elf"),
            (self.kernel_va and self.format != "elf", "--kernel-va is for -O elf"),
            (self.kernel_va and qemu, "--kernel-va and --compat qemu exclude each other"),
            (windowed and qemu, "--compat qemu takes all memory, without --start and --length"),
            (
                windowed and self.format in ("blocks", "vmcoreinfo", "kdump"),
                f"--start and --length are not for -O {self.format}",
            ),
        ):
            if wrong:
                raise ConversionError(words)


class _Export:
    def __init__(
        self,
        image: SaveImage,
        target: StrPath,
        request: Request,
        overwrite: bool,
        io: IOOptions,
        progress: OnProgress | None,
        believed: StreamEnd | None = None,
    ) -> None:
        self._image = image
        self._believed = believed
        self._target = os.fspath(target)
        self._request = request
        self._overwrite = overwrite
        self._io = io
        self._meter = Meter(progress, 0, "exporting")
        self._findings: list[Finding] = []
        self._results: list[os.stat_result] = []
        self._started = time.monotonic()

    def run(self, dry_run: bool = False) -> ExportReport:
        """Do it, or only plan it."""
        with located(self._image.path):
            return self._run(dry_run)

    def _run(self, dry_run: bool) -> ExportReport:
        self._refuse_same_file()
        self._image.require_ram()
        match self._request.format:
            case "blocks":
                return self._blocks(dry_run)
            case "vmcoreinfo":
                return self._vmcoreinfo(dry_run)
            case "kdump":
                kdump.find_program()
        plan = self._plan()
        if dry_run:
            return self._report(plan.segments, plan.cpus, dry_run=True)
        with self._output(plan) as output:
            written, source = self._write(plan, output)
            direct = output.file.direct
            if self._request.format == "kdump":
                self._meter.phase = "compressing"
                with OutputFile(self._target, overwrite=self._overwrite) as result:
                    self._compress(plan, output.descriptor, result.descriptor)
                    self._commit(result)
            else:
                self._commit(output)
        report = self._report(plan.segments, plan.cpus, written=written, direct=direct)
        return replace(report, vmcoreinfo=source)

    # --- a file of pages ---

    def _plan(self) -> Plan:
        image, request, findings = self._image, self._request, self._findings
        window = parse_window(request.start, request.length, image.page_size)
        if request.compat == "qemu":
            segments = find_segments(image, findings, wanted=core.dumped_by_qemu)
            return core.plan_qemu_core(image, segments, findings)
        segments = find_segments(image, findings, window)
        if request.format == "raw":
            return plan_raw(segments, window, findings)
        if request.format == "lime":
            return plan_lime(segments)
        mappings = kernel.kernel_mappings(image, findings) if request.kernel_va else ()
        return core.plan_core(image, segments, mappings, findings)

    def _compress(self, plan: Plan, core: int, target: int) -> None:
        try:
            kdump.compress(core, target)
        except ConversionError as error:
            if not plan.cpus:
                raise ConversionError(
                    "the registers of the vCPUs cannot be read, and a kdump file without them "
                    f"needs a Linux guest with VMCOREINFO ({error.message}); -O elf, lime and raw "
                    "write the memory alone"
                ) from error
            raise

    def _output(self, plan: Plan) -> OutputFile:
        wanted = self._io.direct
        if wanted is None:
            wanted = plan.memory_length >= DIRECT_FROM
        direct = wanted and plan.aligned
        return OutputFile(
            self._target, overwrite=self._overwrite, direct=direct, engine=self._io.engine
        )

    def _write(self, plan: Plan, output: OutputFile) -> tuple[Written, str | None]:
        output.set_length(plan.length)
        written = write_pages(
            self._image,
            output.file,
            plan.placed,
            self._io,
            self._meter,
            self._findings,
            plan.watch,
        )
        self._meter.phase = "finishing"
        for at, piece in plan.pieces:
            output.file.write(piece, at)
        return written, plan.finish(output, self._findings)

    # --- other results ---

    def _blocks(self, dry_run: bool) -> ExportReport:
        segments = blocks.whole_blocks(self._image, self._findings)
        if dry_run:
            return self._report(segments, dry_run=True)
        with OutputFolder(self._target, overwrite=self._overwrite) as folder:
            written, files = blocks.export_blocks(
                self._image, folder, segments, self._io, self._meter, self._findings
            )
            self._require_proof()
            folder.commit()
        self._tell(folder.notes)
        self._results = folder.written
        return self._report(segments, written=written, files=files)

    def _vmcoreinfo(self, dry_run: bool) -> ExportReport:
        found = vmcoreinfo.find(self._image, self._findings)
        if found is None:
            raise ConversionError(
                "the guest's memory has no VMCOREINFO: the guest does not run Linux, or Linux "
                "has not booted yet"
            )
        if not dry_run:
            with OutputFile(self._target, overwrite=self._overwrite) as output:
                output.file.write(found.text, 0)
                self._commit(output)
        return replace(self._report((), dry_run=dry_run), vmcoreinfo=found.source)

    # --- shared ---

    def _refuse_same_file(self) -> None:
        if os.path.exists(self._target) and os.path.samefile(self._image.path, self._target):
            raise ConversionError(
                "source and target are the same file; name another target", path=self._target
            )

    def _commit(self, output: OutputFile) -> None:
        self._require_proof()
        output.commit()
        self._tell(output.notes)
        self._results = [output.status]

    def _require_proof(self) -> None:
        """Refuse to keep what was made from other bytes than the image's."""
        self._image.file.require_unchanged()
        if self._believed is not None and is_belied(self._image, self._believed):
            raise UnsupportedError("the stream ends elsewhere than the file", path=self._image.path)

    def _tell(self, notes: Sequence[str]) -> None:
        self._findings += [Finding("target.note", Severity.NOTE, note) for note in notes]

    def _report(
        self,
        segments: Sequence[MemorySegment],
        cpus: int = 0,
        *,
        written: Written | None = None,
        files: Sequence[str] = (),
        direct: bool = False,
        dry_run: bool = False,
    ) -> ExportReport:
        image, request = self._image, self._request
        return ExportReport(
            source=str(image.source),
            target=self._target,
            format=request.format,
            compat=request.compat if request.format == "elf" else None,
            source_layout=image.layout,
            source_codec=image.codec,
            cpus=cpus,
            segments=len(segments),
            memory_length=total(segments),
            data_pages=written.present if written else None,
            source_length=image.length,
            target_length=sum(item.st_size for item in self._results),
            target_disk_length=sum(item.st_blocks for item in self._results) * 512,
            seconds=time.monotonic() - self._started,
            files=tuple(files),
            findings=tuple(self._findings),
            direct=direct,
            dry_run=dry_run,
            cloned_length=written.cloned if written and request.format != "kdump" else 0,
        )
