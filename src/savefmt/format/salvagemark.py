"""The mark of an image that was salvaged: memory is lost, and how much.

Like the mark of a thin image, it is a member of the vmdescription. QEMU skips it, and every
copy of the image keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from savefmt.errors import FormatError
from savefmt.format.vmstate import Description, text_at_end
from savefmt.frozen import asdict
from savefmt.model import SalvageMark

_KEY = "savefmt-salvaged"
_MOST_BLOCKS = 4096


def put_mark(mark: SalvageMark, description: Description | None) -> Description:
    """Return a description with a mark in it; a new description if there was none."""
    return Description.with_member(description, _KEY, asdict(mark))


def find_mark(description: Description | None) -> SalvageMark | None:
    """Read the mark of a stream; None if it has no mark that makes sense."""
    value = description.document.get(_KEY) if description is not None else None
    if not isinstance(value, dict) or not _sensible(value):
        return None
    return SalvageMark(value["lost"], value["unlisted"], value["devices_whole"])


def mark_at_end(pread: Callable[[int, int], bytes], end: int) -> SalvageMark | None:
    """Look for the mark at the end of a file, where a description is as a rule.

    Parameters
    ----------
    pread : callable
        ``pread(length, offset)`` returns bytes of the file.
    end : int
        Length of the file.

    Returns
    -------
    SalvageMark or None
        None where there is none.
    """
    try:
        text = text_at_end(pread, end)
        return find_mark(Description.parse(text, 0)) if _KEY.encode() in text else None
    except FormatError:
        return None


def _sensible(value: dict[str, Any]) -> bool:
    lost = value.get("lost")
    return (
        isinstance(lost, dict)
        and len(lost) <= _MOST_BLOCKS
        and all(type(count) is int and count > 0 for count in lost.values())
        and type(value.get("unlisted")) is int
        and type(value.get("devices_whole")) is bool
    )
