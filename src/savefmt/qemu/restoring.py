"""Restore a guest into a QEMU that waits for one: compare, load, resume."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from typing import Any

from savefmt.compat.ask import ask, read_capabilities
from savefmt.compat.policy import MAX_CHANNELS, MULTIFD, Abilities, direct_io_notes
from savefmt.errors import ConversionError, SavefmtError
from savefmt.format.configuration import MAPPED_RAM
from savefmt.format.cursor import Cursor
from savefmt.format.mappedram import HEADER_LENGTH, MappedRamHeader
from savefmt.frozen import dataclass, replace
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, OnProgress, StrPath
from savefmt.progress import Meter
from savefmt.qemu import migration
from savefmt.qemu.descriptors import file_in_set, pipe_end
from savefmt.qemu.hosted import HostedGuest, look
from savefmt.qemu.preflight import WAITING, refuse_other_guest
from savefmt.qemu.pump import Pump, to_qemu
from savefmt.qemu.report import MigrationError, RestoreReport
from savefmt.qemu.settings import configured, parameters_for
from savefmt.qmp import CommandError, Monitor
from savefmt.writing.nameless import own_path

_MUST_MATCH = "x-ignore-shared"


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """How an image is to be loaded.

    Attributes
    ----------
    capabilities : frozenset of str
        To be on in QEMU.
    channels : int
        Of multifd; 0 without it.
    direct : bool
        Whether the page cache is bypassed.
    notes : tuple of str
        What was asked for and is done otherwise.
    """

    capabilities: frozenset[str]
    channels: int
    direct: bool
    notes: tuple[str, ...] = ()


def restore(
    image: StrPath,
    *,
    qmp: str,
    parallel: int | None = None,
    bypass_cache: bool = False,
    running: bool | None = None,
    resume: bool = False,
    ignore: Collection[str] = (),
    binary: str | None = None,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    timeout: float = 10.0,
    progress: OnProgress | None = None,
) -> RestoreReport:
    """Load a saved guest into a QEMU that was started with ``-incoming defer``.

    Parameters
    ----------
    image : str or os.PathLike
        A libvirt save image or a bare stream, in any layout and codec.
    qmp : str
        Path of QEMU's QMP socket, a UNIX one.
    parallel : int, optional
        Channels that QEMU reads a mapped-ram image with.
    bypass_cache : bool
        Keep the page cache out of it, where it can be had.
    running : bool, optional
        Let the guest run, or keep it paused; by default as the image's header says, and
        paused where there is no header.
    resume : bool
        Load nothing: the guest is in this QEMU already, since an earlier restore ended
        before it let the guest run.  It runs, unless `running` is False.
    ignore : collection of str
        Of `savefmt.qemu.preflight.KINDS`: what of this QEMU may differ from the guest's.
    binary : str, optional
        The QEMU's program, which is asked for the device state that it knows; by default the
        one behind the socket, if only root could have put it there.
    dry_run : bool
        Compare image and QEMU, say how the image would be loaded, and change nothing.  An
        image that tells its devices at its end alone is read up to there.
    io : IOOptions
        How a sequential image is read.
    timeout : float
        Seconds for the socket to answer.
    progress : callable, optional
        As for `savefmt.convert`.

    Returns
    -------
    RestoreReport
        What was done.

    Raises
    ------
    FormatError
        If the image is damaged or unfinished.
    ConversionError
        If the options do not go with the image.
    MigrationError
        If this QEMU is not made for this guest, or cannot load it.
    MonitorError
        If nobody answers on the socket, or QEMU ends on the way.
    OperationCancelled
        If the progress callback returned False.
    """
    began = time.monotonic()
    reading = replace(io, direct=True) if bypass_cache else io
    with SaveImage(image, io=reading) as saved, Monitor(qmp, timeout=timeout) as monitor:
        abilities = ask(monitor).abilities
        grants = bypass_cache and saved.file.direct
        choice = choose_load(saved, abilities, parallel, bypass_cache, grants=grants)
        refuse_unready(monitor, look(monitor), resume=resume)
        notes = (*choice.notes, *direct_io_notes(abilities))
        notes += refuse_other_guest(saved, monitor, ignore, binary, thorough=dry_run)
        if resume:
            notes = (*notes, "the guest is there already, whole, and is not loaded again")
            running = running is not False
        elif dry_run:
            migration.refuse_second(monitor)
        else:
            Load(monitor, saved, choice, progress).run()
        if running is None:
            running = saved.envelope is not None and bool(saved.envelope.was_running)
        if running and not dry_run:
            migration.resume(monitor)
        return RestoreReport(
            image=str(saved.source),
            machine=saved.machine,
            layout=saved.layout,
            codec=saved.codec,
            channels=choice.channels,
            direct=choice.direct,
            state="running" if running else "paused",
            ram_length=saved.head.blocks.total,
            seconds=time.monotonic() - began,
            notes=notes,
            dry_run=dry_run,
        )


def refuse_unready(monitor: Monitor, guest: HostedGuest, *, resume: bool) -> None:
    """Refuse a QEMU that does not wait for a guest, or that has no guest to resume.

    Parameters
    ----------
    monitor : Monitor
        Connected.
    guest : HostedGuest
        What that QEMU says of itself.
    resume : bool
        A whole guest is wanted, which an earlier restore left paused.

    Raises
    ------
    MigrationError
        With what to do instead.
    """
    migrated = monitor.execute("query-migrate").get("status") == "completed"
    whole = guest.status == "paused" and migrated
    if resume and not whole:
        raise MigrationError(
            f"this QEMU holds no guest that a restore left paused (it is {guest.status}); "
            "leave out --resume",
            path=monitor.name,
        )
    if whole and not resume:
        raise MigrationError(
            "this QEMU holds a whole guest, paused, as an earlier restore left it; --resume lets "
            "it run",
            path=monitor.name,
        )
    if not whole and guest.status != WAITING:
        raise MigrationError(
            f"this QEMU does not wait for a guest (it is {guest.status}); start it with "
            "-incoming defer",
            path=monitor.name,
        )


def choose_load(
    image: SaveImage,
    abilities: Abilities,
    parallel: int | None,
    bypass_cache: bool,
    *,
    grants: bool,
) -> LoadChoice:
    """Decide how an image is loaded.

    Parameters
    ----------
    image : SaveImage
        Open.
    abilities : Abilities
        Of the QEMU.
    parallel : int or None
        Channels asked for.
    bypass_cache : bool
        Whether to bypass the page cache.
    grants : bool
        Whether the image's file system grants that.

    Returns
    -------
    LoadChoice
        Complete.

    Raises
    ------
    ConversionError
        If image or QEMU cannot do what was asked for.
    """
    capabilities = {_MUST_MATCH} & image.capabilities
    if parallel is not None and not 1 <= parallel <= MAX_CHANNELS:
        raise ConversionError(
            f"{parallel} parallel channels make no sense; ask for 1 to {MAX_CHANNELS}"
        )
    if image.layout is Layout.SEQUENTIAL:
        if parallel is not None:
            raise ConversionError(
                "the image is one stream, which parallel channels cannot load; leave them out, "
                "or make it sparse first with savefmt convert -O sparse",
                path=image.path,
            )
        direct = bypass_cache and grants
        return LoadChoice(frozenset(capabilities), 0, direct, _cache_note(bypass_cache, direct))
    if not abilities.mapped_ram:
        raise ConversionError(
            "this QEMU has no mapped-ram, which came with 9.0; use a newer one, or "
            "savefmt convert -O raw",
            path=image.path,
        )
    if parallel is not None and not abilities.multifd:
        raise ConversionError("this QEMU has no multifd, which parallel channels need")
    direct = bypass_cache and grants and abilities.direct_io and abilities.multifd
    channels = parallel or int(direct)
    capabilities |= {MAPPED_RAM, MULTIFD} if channels else {MAPPED_RAM}
    return LoadChoice(frozenset(capabilities), channels, direct, _cache_note(bypass_cache, direct))


def _cache_note(wanted: bool, direct: bool) -> tuple[str, ...]:
    if wanted and not direct:
        return ("through the page cache: QEMU or the file system cannot bypass it",)
    return ()


def _start_in_file(image: SaveImage) -> int:
    """Return where in the file QEMU is to begin to read a mapped-ram image.

    Raises
    ------
    ConversionError
        If the offsets in the image do not hold in this file.
    """
    start = image.file.start
    block = next((block for block in image.head.blocks.blocks if block.header), None)
    if start and block is not None and block.header is not None and block.header_offset:
        at = block.header_offset
        written = MappedRamHeader.parse(image.file.read(HEADER_LENGTH, at), at=at)
        if written != block.header.moved(start):
            start = None
    if start is None:
        raise ConversionError(
            "QEMU cannot load an image from inside another file; take it out first, with "
            "savefmt convert",
            path=image.path,
        )
    return start + image.stream_offset


def pages_file(image: SaveImage) -> str:
    """Return the path of the file that the pages lie in: a thin image's are its base's."""
    return os.fspath((image.base or image).filename)


def _pieces(cursor: Cursor) -> Iterator[memoryview]:
    while len(window := cursor.window()):
        yield window
        cursor.advance(len(window))


class Load:
    """One load.

    Parameters
    ----------
    monitor : Monitor
        Of the QEMU, which waits.
    image : SaveImage
        What is loaded.
    choice : LoadChoice
        How.
    progress : callable or None
        As everywhere.
    stream : iterator of bytes or memoryview, optional
        Sent instead of the image's own stream.
    """

    def __init__(
        self,
        monitor: Monitor,
        image: SaveImage,
        choice: LoadChoice,
        progress: OnProgress | None,
        stream: Iterator[bytes | memoryview] | None = None,
    ) -> None:
        self.monitor = monitor
        self.image = image
        self.choice = choice
        self.stream = stream
        plain = image.layout is Layout.SEQUENTIAL and not image.packing.packed
        total = image.length - image.stream_offset if plain else 0
        self._meter = Meter(progress, total, "loading")

    def run(self) -> None:
        """Load, and leave the guest paused."""
        migration.refuse_second(self.monitor)
        # In this state it means: do not run by yourself once all is there.
        self.monitor.execute("stop")
        try:
            self._migrate()
            migration.settle(self.monitor)
        except BaseException as error:
            state = self._remains()
            if isinstance(error, SavefmtError):
                error.message = f"{error.message}; {state}"
            else:
                error.add_note(state)
            raise

    def _remains(self) -> str:
        monitor = self.monitor
        if monitor.lost and not monitor.reconnect() and not monitor.silent:
            return "QEMU has ended; the image is unharmed"
        return "this QEMU holds no whole guest: quit it, and start another; the image is unharmed"

    def _migrate(self) -> None:
        monitor, choice, image = self.monitor, self.choice, self.image
        by_qemu = image.layout is Layout.MAPPED_RAM and self.stream is None
        with contextlib.ExitStack() as stack:
            # What else its owner has switched on was meant for this load.
            keep = set(read_capabilities(monitor)) - {MAPPED_RAM, MULTIFD, _MUST_MATCH}
            parameters = parameters_for(choice.channels, by_qemu and choice.direct)
            stack.enter_context(configured(monitor, choice.capabilities, parameters, keep=keep))
            pump: Pump | None = None
            if by_qemu:
                kinds = ("plain", "direct") if choice.direct else ("plain",)
                own = own_path(image.file.descriptor)  # the name may lead to another file by now
                files = file_in_set(monitor, own, _start_in_file(image), os.O_RDONLY, kinds)
                uri = stack.enter_context(files)
            else:
                pieces = self.stream or _pieces(stack.enter_context(image.stream()))
                pump = stack.enter_context(to_qemu(pieces))
                uri = stack.enter_context(pipe_end(monitor, pump))
            with monitor.unhurried():
                self._start(uri)
                self._follow(pump)

    def _start(self, uri: str) -> None:
        try:
            self.monitor.execute("migrate-incoming", {"uri": uri, "exit-on-error": False})
        except CommandError as error:
            if "exit-on-error" not in error.message:
                raise
            # QEMU before 9.1 ends on a failed load.
            self.monitor.execute("migrate-incoming", {"uri": uri})

    def _follow(self, pump: Pump | None) -> None:
        def watch(answer: dict[str, Any]) -> None:
            if pump is not None:
                pump.check()
                self._meter.update(pump.moved)
            else:
                self._meter.update(0)

        try:
            migration.follow(self.monitor, "load", watch)
        except MigrationError:
            # QEMU only reports that the stream ended; the pump knows why.
            if pump is not None:
                pump.check()
            raise
