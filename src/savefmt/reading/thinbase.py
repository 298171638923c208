"""Whether the base of a thin image is still the image that it was made from."""

from __future__ import annotations

import os

from savefmt.errors import ConversionError, SavefmtError
from savefmt.format.thin import ThinMark
from savefmt.model import Finding, Layout, Severity
from savefmt.reading.stored import StoredImage

_AGAIN = "put the base back, or make the thin image again with savefmt clone"


def mark_of(image: StoredImage, blocks: tuple[tuple[str, str], ...]) -> ThinMark:
    """Describe an image as the base of thin ones.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    blocks : tuple of (str, str)
        Blocks that are mapped: their names in the thin stream and in the base.
    """
    status = os.fstat(image.file.descriptor)
    return ThinMark(
        os.path.realpath(image.filename),
        status.st_size,
        status.st_ino,
        status.st_mtime_ns,
        _digest(image),
        blocks,
    )


def check_base(mark: ThinMark, base: StoredImage) -> None:
    """Refuse a base that is another image, or has been changed.

    A copy that kept its time, on another disk for instance, is as good as the original.

    Raises
    ------
    ConversionError
        If the base differs; the message tells in what.
    """
    if base.layout is not Layout.MAPPED_RAM:
        raise ConversionError(f"the base of this thin image is not a mapped-ram image; {_AGAIN}")
    status = os.fstat(base.file.descriptor)
    for what, then, now in (
        ("length", mark.length, status.st_size),
        ("time of change", mark.modified, status.st_mtime_ns),
        ("content", mark.digest, _digest(base)),
    ):
        if then != now:
            raise ConversionError(
                f"the base of this thin image has changed since (its {what} differs), so the "
                f"guest's memory is not known any more; {_AGAIN}",
                path=mark.path,
            )


def _digest(image: StoredImage) -> str:
    """Return a digest of all but the pages."""
    import hashlib  # late: `savefmt info` comes by here, too

    from savefmt.reading.digests import digest_mapped

    state = hashlib.sha256()
    for block, pages in zip(image.head.blocks.blocks, image.mapped.pages, strict=True):
        state.update(repr((block.name, block.used_length, pages.offset)).encode())
        state.update(pages.bitmap)
    state.update(digest_mapped(image)[0].together.encode())
    return state.hexdigest()


def without_base(mark: ThinMark, error: SavefmtError) -> Finding:
    """Return the finding for a thin image whose memory cannot be had."""
    return Finding(
        "thin.base",
        Severity.ERROR,
        f"the memory of this thin image lies in {mark.path}: {error.message}",
        None,
        _AGAIN,
    )
