"""What a file has besides its content: owner, mode, access lists, extended attributes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

_ACL = "system.posix_acl_access"
_OF_CONTENT = frozenset({"security.ima", "security.evm", "security.capability"})
"""Sums of the content and rights that go with it: they would be wrong on another file."""


def copy_attributes(source: int, target: int) -> list[str]:
    """Give a file that nobody can reach yet what another one carries.

    Parameters
    ----------
    source, target : int
        Descriptors; the target is ours alone.

    Returns
    -------
    list of str
        What could not be kept, in words.
    """
    status = os.fstat(source)
    lost = []
    mode = stat.S_IMODE(status.st_mode)
    if not _give(target, status.st_uid, status.st_gid):
        # Without root the file is the caller's, as after any editor.  The rights of the
        # old group must not go to another one.
        if not _give(target, -1, status.st_gid):
            mode &= ~stat.S_IRWXG
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
        lost.append(f"the owner, {status.st_uid}:{status.st_gid}, needs root to be kept")
    # The folder may have lent the new file an access list of its own.
    with contextlib.suppress(OSError):
        os.removexattr(target, _ACL)
    lost += _copy_extended(source, target)
    os.fchmod(target, mode)
    return lost


def _give(fd: int, user: int, group: int) -> bool:
    try:
        os.fchown(fd, user, group)
    except PermissionError:
        return False
    return True


def _copy_extended(source: int, target: int) -> Iterator[str]:
    try:
        names = os.listxattr(source)
    except OSError:  # the file system has no attributes
        return
    for name in names:
        if name in _OF_CONTENT:
            continue
        try:
            value = os.getxattr(source, name)
            if _value(target, name) != value:
                os.setxattr(target, name, value)
        except OSError as error:
            yield f"the attribute {name} was not kept: {error.strerror}"


def _value(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None


def other_names(status: os.stat_result) -> list[str]:
    """Say that a file has more names than the one that gets a new file."""
    count = status.st_nlink - 1
    if count < 1:
        return []
    others = "another name (a hard link) keeps" if count == 1 else f"{count} hard links keep"
    return [f"{others} the old file"]
