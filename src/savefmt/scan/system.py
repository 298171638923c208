"""Which system a guest runs, from well-known marks in its memory, without symbols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from savefmt.errors import AddressError, SavefmtError, UnsupportedError
from savefmt.guest.arch.x86 import X86Registers
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.scan import linuxmarks, ntmarks
from savefmt.scan.results import Evidence, Hit, SystemHint
from savefmt.scan.search import Places, search

_CONTEXT = 512
_KEPT = 64
"""Marks of a kind that are looked at: memory may be full of what looks like them."""

_RANKS = (
    "linux.vmcoreinfo",
    "linux.banner",
    "windows.kernel",
    "windows.pdb",
    "windows.start-block",
    "windows.build",
)


def identify(
    image: SaveImage, *, io: IOOptions = IOOptions(), progress: OnProgress | None = None
) -> SystemHint:
    """Tell what system a guest runs.

    A hint: every mark may also lie in memory as data, of a file for example.  So all
    evidence is told, and it is noted where it disagrees.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    SystemHint
        With its evidence.
    """
    marks = _Marks(image)
    patterns = [linuxmarks.BANNER, linuxmarks.NOTE, *ntmarks.PDBS, *ntmarks.BUILDS]
    for hit in search(image, patterns, context=_CONTEXT, io=io, progress=progress):
        marks.take(hit)
    marks.look_low()
    return marks.verdict()


class _Marks:
    """Collects evidence."""

    def __init__(self, image: SaveImage) -> None:
        self._image = image
        self._counts = Counter[str]()
        self._banners: list[linuxmarks.Banner] = []
        self._core_infos: list[linuxmarks.CoreInfo] = []
        self._windows: list[Evidence] = []
        self._base: int | None = None

    def take(self, hit: Hit) -> None:
        """Look closer at what may be a mark."""
        if self._counts[hit.pattern] >= _KEPT:
            return
        if hit.pattern == linuxmarks.BANNER.name:
            banner = linuxmarks.read_banner(hit)
            found = banner is not None
            if banner is not None:
                self._banners.append(banner)
        elif hit.pattern == linuxmarks.NOTE.name:
            found = self._take_note(hit)
        else:
            read = ntmarks.read_build if hit.pattern == "build" else ntmarks.read_pdb
            mark = read(hit)
            found = mark is not None
            if mark is not None:
                self._windows.append(mark)
                if mark.kind == "windows.pdb":
                    self._take_kernel(mark)
        self._counts[hit.pattern] += found

    def _take_note(self, hit: Hit) -> bool:
        length = linuxmarks.note_length(hit)
        content = self._read(hit.block, linuxmarks.content_offset(hit), length) if length else None
        info = linuxmarks.read_core_info(hit, content) if content else None
        if info is not None:
            self._core_infos.append(info)
        return info is not None

    def _take_kernel(self, mark: Evidence) -> None:
        """Look for the header before the name of its symbols file."""

        def page(offset: int) -> bytes | None:
            return self._read(mark.block, offset, ntmarks.PAGE)

        found = ntmarks.find_header(page, mark.offset)
        if found is not None:
            places = Places(self._image)
            physical = places.physical(mark.block, found[0])
            self._add_kernel(found[1], mark.block, found[0], physical, "header's own word")

    def _add_kernel(
        self,
        header: ntmarks.KernelHeader,
        block: str,
        offset: int,
        physical: tuple[int, ...],
        how: str,
    ) -> None:
        detail = (("length", hex(header.length)), ("machine", header.machine), ("how", how))
        base = hex(header.base)
        self._windows.append(Evidence("windows.kernel", base, block, offset, physical, detail))
        if self._base is None:
            self._base = header.base

    def look_low(self) -> None:
        """Look at low memory, and at where system calls go."""
        try:
            low = self._image.guest.physical.find(0x1000)
        except SavefmtError:
            return
        if low is not None:
            self._windows += ntmarks.start_blocks(self._read, low.block)
        if self._windows:
            self._follow_system_calls()

    def _follow_system_calls(self) -> None:
        """Go back from the entry of system calls to the header of the kernel."""
        try:
            cpu = self._image.guest.cpu()
            entry = cpu.msrs.get("lstar", 0) if isinstance(cpu, X86Registers) else 0
            if not entry:
                return
            space = self._image.guest.space()

            def page(address: int) -> bytes | None:
                try:
                    return space.read(address, ntmarks.PAGE)
                except AddressError:
                    return None

            found = ntmarks.find_header(page, entry)
            if found is None:
                return
            address = space.translate(found[0]).physical
            place = self._image.guest.physical.find(address)
        except SavefmtError:
            return
        if place is not None:
            header = ntmarks.KernelHeader(
                found[0], found[1].length, found[1].machine, found[1].built
            )
            self._base = found[0]  # the page tables know better than the header
            self._add_kernel(
                header,
                place.block,
                place.offset + address - place.start,
                (address,),
                "back from where system calls go",
            )

    def _read(self, block: str, offset: int, length: int) -> bytes | None:
        try:
            return self._image.memory.read(block, offset, length)
        except (ValueError, UnsupportedError):
            return None

    def verdict(self) -> SystemHint:
        """Weigh the evidence."""
        infos, banners = self._core_infos, self._banners
        builds = [mark for mark in self._windows if mark.kind == "windows.build"]
        certain = [mark for mark in self._windows if mark.kind != "windows.build"]
        evidence = _ordered(
            [*(one.evidence for one in infos), *(one.evidence for one in banners), *self._windows]
        )
        path, notes = str(self._image.path), _doubts(infos, banners, certain)
        if infos or (banners and not certain):
            release = infos[0].release if infos else _most(one.release for one in banners)
            shift = infos[0].kaslr_shift if infos else None
            return SystemHint(path, "linux", release, shift, None, evidence, notes)
        if certain:
            version = _most(mark.value for mark in builds) if builds else None
            return SystemHint(path, "windows", version, None, self._base, evidence, notes)
        return SystemHint(path, None, None, None, None, evidence, notes)


def _doubts(
    infos: list[linuxmarks.CoreInfo], banners: list[linuxmarks.Banner], windows: list[Evidence]
) -> tuple[str, ...]:
    releases = {one.release for one in banners} | {one.release for one in infos}
    notes = []
    if len(releases) > 1:
        notes.append(f"more than one release of Linux: {', '.join(sorted(releases))}")
    if len({one.kaslr_shift for one in infos}) > 1:
        notes.append("the kernel's notes disagree on how far it was moved; an old one is left")
    if releases and windows:
        notes.append("there are marks of Linux and of Windows")
    return tuple(notes)


def _most(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _ordered(marks: list[Evidence]) -> tuple[Evidence, ...]:
    return tuple(sorted(marks, key=lambda mark: _RANKS.index(mark.kind)))
