"""Images in use: a guest runs on an image's pages, or a thin image needs them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

from savefmt.errors import ConversionError
from savefmt.model import StrPath

_MARK = "user.savefmt.thin"


def refuse_in_use(path: StrPath) -> None:
    """Refuse to change or replace a file on which a guest runs, or that a thin image needs.

    Parameters
    ----------
    path : str or os.PathLike
        May be absent.

    Raises
    ------
    ConversionError
        With who relies on it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return
        runner = next(_who_maps(os.path.realpath(path), status), None)
        if runner is not None:
            raise ConversionError(
                f"process {runner} has this file mapped: a guest runs on its pages, and would get "
                "other memory; end that guest first",
                path=path,
            )
        if not _can_lock(fd):
            raise ConversionError(
                "this file is locked: a guest runs on its pages, and would get other memory, or "
                "another process is changing it; wait for that, or end that guest first",
                path=path,
            )
        thin = next(iter(thin_images(fd)), None)
    finally:
        os.close(fd)
    if thin is not None:
        raise ConversionError(
            f"the memory of the thin image {thin} lies in this file; remove that, or make it an "
            "ordinary image with savefmt detach",
            path=path,
        )


def _can_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks on this file system
    return True


def _who_maps(path: str, status: os.stat_result) -> Iterator[int]:
    """Yield the processes, of those that we may look into, which map a file."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{name}/maps", encoding="utf-8", errors="replace") as lines,
        ):
            for line in lines:
                words = line.rstrip("\n").split(maxsplit=5)
                # btrfs shows another device than stat does, but the same path.
                same = len(words) == 6 and (words[3] == device or words[5] == path)
                if same and words[4] == str(status.st_ino):
                    yield int(name)
                    break


def note_thin(path: StrPath, thin: StrPath) -> bool:
    """Note on a base that a thin image needs it; False where the file system cannot."""
    import json

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        known = [*thin_images(fd), os.path.realpath(thin)]
        os.setxattr(fd, _MARK, json.dumps(sorted(set(known))).encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def thin_images(fd: int) -> list[str]:
    """Return the thin images that are noted on a base, and are still there."""
    try:
        noted = os.getxattr(fd, _MARK)
    except OSError:
        return []
    import json  # late: hardly any file is a base

    try:
        known = json.loads(noted)
    except ValueError:
        return []
    if not isinstance(known, list):
        return []
    return [name for name in known if isinstance(name, str) and os.path.isfile(name)]
