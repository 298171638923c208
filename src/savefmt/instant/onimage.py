"""Restore a guest into a QEMU that maps the image's pages as its memory."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Collection, Iterable

from savefmt.errors import ConversionError, ImageIOError
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.envelope import HEADER_LENGTH
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.instant.backends import mappable, mapped_by
from savefmt.instant.thinstream import thin_stream
from savefmt.instant.warming import (
    Range,
    forget,
    read_order,
    require_order,
    stored_ranges,
    warmed,
    watch_touched,
    write_order,
)
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.progress import Meter
from savefmt.qemu import migration
from savefmt.qemu.hosted import look
from savefmt.qemu.preflight import refuse_other_guest
from savefmt.qemu.report import RestoreReport
from savefmt.qemu.restoring import Load, LoadChoice, pages_file, refuse_unready
from savefmt.qmp import Monitor, MonitorError

RECORD_SECONDS = 10.0
_LOCK_NAME = "savefmt-base"
_HEAD = 1 << 20
"""Bytes before the pages that tell a copy from other files."""


def restore_on_image(
    image: StrPath,
    *,
    qmp: str,
    running: bool | None = None,
    copy: StrPath | None = None,
    warm: bool = False,
    order: StrPath | None = None,
    record: StrPath | None = None,
    record_seconds: float = RECORD_SECONDS,
    ignore: Collection[str] = (),
    binary: str | None = None,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    timeout: float = 10.0,
    progress: OnProgress | None = None,
) -> RestoreReport:
    """Restore a guest without loading its memory: QEMU has mapped that from the image.

    Parameters
    ----------
    image : str or os.PathLike
        A mapped-ram image, or a thin one of it.  It must not change while the guest runs;
        a lock, which QEMU holds as long as it lives, keeps savefmt from changing it.
    qmp : str
        Path of the QMP socket of a QEMU that was started as `instant_command` tells.
    running : bool, optional
        Let the guest run, or keep it paused; by default as the image's header says.
    copy : str or os.PathLike, optional
        A copy of the image that the guest may write, which QEMU maps shared.
    warm : bool
        Read what the image stores into the page cache meanwhile, and return when that is done.
    order : str or os.PathLike, optional
        Warm only what this file lists, in its order.
    record : str or os.PathLike, optional
        List in this file what the guest touches at first, and return when that is done.
    record_seconds : float
        How long that is watched.
    ignore : collection of str
        What of this QEMU may differ from the guest's, as for `savefmt.qemu.restore`.
    binary : str, optional
        The QEMU's program, likewise.
    dry_run : bool
        Compare image and QEMU, and change nothing.
    io : IOOptions
        How the blocks are read that QEMU does not map.
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
    ConversionError
        If a guest cannot run on the image.
    MigrationError
        If QEMU maps another file, or maps this one so that harm would come of it.
    MonitorError
        If nobody answers on the socket, or QEMU ends on the way.
    """
    began = time.monotonic()
    if record is not None:
        require_order(record)
    with SaveImage(image, io=io) as saved, Monitor(qmp, timeout=timeout) as monitor:
        refuse_unmappable(saved)
        path = pages_file(saved) if copy is None else os.fspath(copy)
        if copy is not None:
            require_copy(saved, copy)
        refuse_unready(monitor, look(monitor), resume=False)
        compared = refuse_other_guest(saved, monitor, ignore, binary, thorough=dry_run)
        mapped = mapped_by(monitor, saved, path, shared=copy is not None)
        if running is None:
            running = saved.envelope is not None and bool(saved.envelope.was_running)
        ranges: Iterable[Range] = read_order(order, mapped) if order is not None else ()
        report = RestoreReport(
            image=os.fspath(image),
            machine=saved.machine,
            layout=saved.layout,
            codec=saved.codec,
            channels=0,
            direct=False,
            state="running" if running else "paused",
            ram_length=saved.head.blocks.total,
            seconds=time.monotonic() - began,
            notes=compared,
            mapped_length=sum(block.length for block in mapped),
            dry_run=dry_run,
        )
        if dry_run:
            migration.refuse_second(monitor)
            return report
        notes = [*compared]
        if not lend_lock(monitor, path):
            notes.append("nothing keeps others from changing the image")
        if warm and order is None:
            ranges = list(stored_ranges(saved.file, mapped))
        if record is not None:
            forget(path)
        with warmed(path, ranges) as finish:
            stream = thin_stream(saved, {block.idstr for block in mapped}, io)
            Load(monitor, saved, LoadChoice(frozenset(), 0, False), progress, stream).run()
            if running:
                migration.resume(monitor)
            seconds = time.monotonic() - began
            if ranges:
                notes.append(f"{finish()} bytes read ahead")
        if record is not None:
            meter = Meter(progress, 0, "watching")
            touched = watch_touched(path, mapped, record_seconds, lambda _: meter.update(0))
            write_order(record, touched)
            notes.append(f"{sum(length for _, length in touched)} bytes were touched at first")
        return replace(report, seconds=seconds, notes=tuple(notes))


def require_copy(image: SaveImage, copy: StrPath) -> None:
    """Refuse to let a guest write into anything but a copy of its image.

    Parameters
    ----------
    image : SaveImage
        Whose pages the guest runs on.
    copy : str or os.PathLike
        A file that is there.

    Raises
    ------
    ConversionError
        If it is the image itself, or something else.
    ImageIOError
        What the operating system refused.
    """
    end = min([_HEAD, *(block.offset for block in mappable(image))])
    try:
        own, own_start = _look(pages_file(image), end)
        found, start = _look(copy, end)
    except OSError as error:
        raise ImageIOError.from_os(error, path=copy) from error
    if os.path.samestat(own, found):
        raise ConversionError("the guest would write into its own image", path=copy)
    if not stat.S_ISREG(found.st_mode) or (own.st_size, own_start) != (found.st_size, start):
        raise ConversionError(
            "this is not a copy of the image, and the guest would write into it; name a new file",
            path=copy,
        )


def _look(path: StrPath, end: int) -> tuple[os.stat_result, bytes]:
    """Return what a file is, and its bytes up to `end`.

    The header is left out: it says whether the guest ran, which may have been changed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        facts = os.fstat(fd)
        regular = stat.S_ISREG(facts.st_mode)
        return facts, os.pread(fd, end - HEADER_LENGTH, HEADER_LENGTH) if regular else b""
    finally:
        os.close(fd)


def refuse_unmappable(image: SaveImage) -> None:
    """Refuse an image whose memory is elsewhere already."""
    if IGNORE_SHARED in image.capabilities:
        raise ConversionError(
            "shared memory was left out of this image (x-ignore-shared), so it cannot be mapped "
            "from it",
            path=image.path,
        )


def lend_lock(monitor: Monitor, path: StrPath) -> bool:
    """Give QEMU a descriptor of a file with a lock on it, which holds as long as QEMU lives.

    Returns
    -------
    bool
        False where locks or descriptors cannot be had.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        monitor.send_fd(fd)
        monitor.execute("getfd", fdname=_LOCK_NAME)
    except (OSError, MonitorError):
        return False
    finally:
        os.close(fd)
    return True
