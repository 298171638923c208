"""The kernel's requests for a mounted folder, and the answers to them (FUSE)."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from savefmt.errors import (
    ConversionError,
    ImageIOError,
    MissingPackageError,
    SavefmtError,
    UnsupportedError,
)
from savefmt.model import StrPath
from savefmt.mount.folder import Folder, find
from savefmt.mount.replies import Reply

_KEPT = 3600.0
"""Seconds for which the kernel need not ask again: nothing changes here."""

_IDLE_THREADS = 10
"""libfuse's own number, but when not told, its 3.14 complains of it on standard error."""

_AHEAD_KIB = 2048
"""Read ahead of who reads in order: each request costs a wake-up, so make them large."""


def check_mountpoint(folder: StrPath) -> None:
    """Refuse a place that is no empty folder.

    Raises
    ------
    ConversionError
        If something would be hidden.
    ImageIOError
        If it cannot be looked at.
    """
    try:
        if os.listdir(folder):
            raise ConversionError("the folder is not empty; mount to another", path=folder)
    except OSError as error:
        raise ImageIOError.from_os(error, path=folder) from error


def serve(
    top: Folder, folder: StrPath, *, modified: int, ready: Callable[[], None] = lambda: None
) -> None:
    """Mount a folder, answer until it is unmounted or a signal ends us, and unmount it.

    Parameters
    ----------
    top : Folder
        What is in it.
    folder : str or os.PathLike
        An empty folder.
    modified : int
        Time of all files, in nanoseconds.
    ready : callable
        Called when it is mounted.

    Raises
    ------
    UnsupportedError
        If mfusepy or libfuse is not installed.
    ImageIOError
        If the kernel or the system refuses.
    """
    library = _library()

    def mounted() -> None:
        # This waits until the kernel has the first answer, which the caller is about to give.
        threading.Thread(target=_read_ahead, args=(os.path.abspath(folder),), daemon=True).start()
        ready()

    answers = _Answers(top, modified, mounted)
    # libfuse ends by itself at signals that nobody else takes.
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in old.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        library.FUSE(
            answers,
            os.fspath(folder),
            foreground=True,
            ro=True,
            nosuid=True,
            nodev=True,
            noexec=True,
            default_permissions=True,
            fsname="savefmt",
            subtype="savefmt",
            **({"max_idle_threads": _IDLE_THREADS} if library.fuse_version_major >= 3 else {}),
        )
    except RuntimeError as error:
        if not answers.mounted:  # else a signal ended it, as it may
            raise ImageIOError(
                "the image could not be mounted; is /dev/fuse there, and may you use it?",
                errno=errno.EPERM,
                path=folder,
            ) from error
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _read_ahead(folder: str) -> None:
    """Have the kernel ask for more at a time than the 128 KiB of its own, which only root may."""
    with suppress(OSError):
        device = os.stat(folder).st_dev
        name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        with open(name, "r+") as file:
            if int(file.read()) < _AHEAD_KIB:
                file.seek(0)
                file.write(f"{_AHEAD_KIB}")


class _Answers:
    """What libfuse calls, in many threads at once."""

    use_ns = True

    def __init__(self, top: Folder, modified: int, ready: Callable[[], None]) -> None:
        self._top = top
        self._modified = modified
        self._ready = ready
        self._owner = os.geteuid(), os.getegid()
        self.mounted = False

    def init_with_config(self, connection: Any, config: Any) -> None:
        """Let the kernel keep what it has read."""
        if config is not None:
            config.attr_timeout = config.entry_timeout = config.negative_timeout = _KEPT
            config.kernel_cache = 1
        self.mounted = True
        self._ready()

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        """Return what `stat` tells; a memory's secrets are the owner's alone."""
        found = self._find(path)
        owner, group = self._owner
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._modified)
        common = {"st_uid": owner, "st_gid": group, **times}
        if isinstance(found, dict):
            folders = sum(isinstance(item, dict) for item in found.values())
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2 + folders, **common}
        return {
            "st_mode": stat.S_IFREG | 0o400,
            "st_nlink": 1,
            "st_size": found.length,
            "st_blocks": -(-_told(lambda: found.stored) // 512),
            **common,
        }

    def readdir(self, path: str, handle: int) -> list[str]:
        """Return the names in a folder."""
        found = self._find(path)
        if not isinstance(found, dict):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return [".", "..", *found]

    def open(self, path: str, flags: int) -> int:
        """Open a file for reading."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._find(path)
        return 0

    def read_buf(self, path: str, answer: Any, length: int, offset: int, handle: int) -> int:
        """Return content; where the image is damaged, and nowhere else, that is EIO."""
        found = self._find(path)
        if isinstance(found, dict):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        length = max(min(length, found.length - offset), 0)
        with Reply(length) as reply:
            _told(lambda: found.read_into(offset, reply.data))
            reply.give(answer)
        return 0

    def _find(self, path: str) -> Any:
        found = find(self._top, path)
        if found is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found


def _told(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except SavefmtError as error:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from error


def _library() -> Any:
    try:
        import mfusepy
    except ImportError as error:
        raise MissingPackageError("savefmt mount", "mfusepy", "mount") from error
    except OSError as error:
        raise UnsupportedError(
            "savefmt mount needs libfuse3, which is not installed: install your system's package"
        ) from error
    return mfusepy
