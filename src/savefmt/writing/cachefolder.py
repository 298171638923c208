"""The user's own folder for files that can be made again, and the key that marks them."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from savefmt.errors import ImageIOError
from savefmt.model import StrPath
from savefmt.writing.output import OutputFile

_KEY_NAME = "key"
_KEY_LENGTH = 32


def cache_folder() -> Path:
    """Return the folder, which is made if need be.

    Raises
    ------
    ImageIOError
        If it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "savefmt"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImageIOError.from_os(error, path=error.filename) from error
    except RuntimeError as error:  # nobody knows this user
        raise ImageIOError(f"{error}; set XDG_CACHE_HOME to a folder of yours") from error
    return folder


def cache_key() -> bytes:
    """Return a secret of this user on this host, made when it is first asked for.

    Raises
    ------
    ImageIOError
        If it cannot be kept, or others may have read or written it.
    """
    path = cache_folder() / _KEY_NAME
    for _ in range(2):
        try:
            return _read_key(path)
        except FileNotFoundError:
            # If two processes come at the same time, the later one reads what the first one
            # wrote.
            with contextlib.suppress(FileExistsError), OutputFile(path, overwrite=False) as output:
                output.file.write(os.urandom(_KEY_LENGTH), 0)
                output.commit()
    raise ImageIOError(
        "the key appears and disappears again; find the process that removes it", path=path
    )


def _read_key(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            own = is_own(os.fstat(fd), private=True)
            key = os.read(fd, _KEY_LENGTH + 1) if own else b""
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    if len(key) != _KEY_LENGTH:
        reason = (
            "this key is not valid, or others can read or change it; remove it, and savefmt "
            "makes a new one"
        )
        raise ImageIOError(reason, path=path)
    return key


def is_own(status: os.stat_result, *, private: bool = False) -> bool:
    """Tell whether a regular file is the user's own, and nobody else may write it.

    Parameters
    ----------
    status : os.stat_result
        Of the open file.
    private : bool
        Nor read it.
    """
    others = 0o077 if private else stat.S_IWGRP | stat.S_IWOTH
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & others
    )


def mark_used(fd: int) -> None:
    """Let a file stay in the cache longer than those that nobody used since."""
    os.utime(fd, ns=(time.time_ns(), os.fstat(fd).st_mtime_ns))


def evict(folder: StrPath, suffix: str, limit: int, keep: str) -> None:
    """Remove the files that were not used for longest, until the rest is small enough.

    Parameters
    ----------
    folder : str or os.PathLike
        Of the user's own.
    suffix : str
        How the names of the files end.
    limit : int
        Bytes for all of them.
    keep : str
        Name of a file that stays, however large.
    """
    files = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    used = max(status.st_atime_ns, status.st_mtime_ns)
                    files.append((entry.name != keep, -used, status, entry.path))
    room = limit
    for evictable, _, status, path in sorted(files, key=lambda file: file[:2]):
        room -= status.st_blocks * 512
        if room < 0 and evictable:
            with contextlib.suppress(OSError):
                os.unlink(path)
