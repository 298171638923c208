"""The mark of a thin image: which image holds its memory.

A thin image is a stream without the pages that QEMU maps from another image, its base.  The
mark is a member of the vmdescription. QEMU skips it, and every copy of the file keeps it.
"""

from __future__ import annotations

from typing import Any

from savefmt.errors import CorruptError
from savefmt.format.vmstate import Description
from savefmt.frozen import dataclass

_KEY = "savefmt-thin"
_MOST_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class ThinMark:
    """The base of a thin image, as it was.

    Attributes
    ----------
    path : str
        Absolute.
    length, inode, modified : int
        Bytes, inode number, and time of the last change in nanoseconds.
    digest : str
        Of block list, bitmaps and device state.
    blocks : tuple of (str, str)
        Blocks that are mapped: their names in the thin stream and in the base.
    """

    path: str
    length: int
    inode: int
    modified: int
    digest: str
    blocks: tuple[tuple[str, str], ...]

    def put_into(self, description: Description | None) -> Description:
        """Return a description with this mark in it; a new description if there was none."""
        value = {
            "path": self.path,
            "length": self.length,
            "inode": self.inode,
            "modified": self.modified,
            "digest": self.digest,
            "blocks": [list(pair) for pair in self.blocks],
        }
        return Description.with_member(description, _KEY, value)

    @staticmethod
    def may_be_in(text: bytes) -> bool:
        """Whether the text of a description is worth parsing for a mark."""
        return _KEY.encode() in text

    @classmethod
    def find(cls, description: Description | None) -> ThinMark | None:
        """Read the mark of a stream, if it has one.

        Raises
        ------
        CorruptError
            If it makes no sense.
        """
        if description is None or _KEY not in description.document:
            return None
        value = description.document[_KEY]
        if not isinstance(value, dict) or not _sensible(value):
            raise CorruptError(
                "the mark of a thin image makes no sense; make the image again with savefmt clone",
                offset=description.offset,
            )
        blocks = tuple((str(own), str(base)) for own, base in value["blocks"])
        plain = {key: value[key] for key in ("path", "length", "inode", "modified", "digest")}
        return cls(**plain, blocks=blocks)


def _sensible(value: dict[str, Any]) -> bool:
    path, blocks = value.get("path"), value.get("blocks")
    return (
        isinstance(path, str)
        and path.startswith("/")
        and "\0" not in path
        and isinstance(value.get("digest"), str)
        and all(type(value.get(key)) is int for key in ("length", "inode", "modified"))
        and isinstance(blocks, list)
        and len(blocks) <= _MOST_BLOCKS
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, str) for n in pair)
            for pair in blocks
        )
    )
