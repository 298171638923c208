"""The functions that most callers begin with: open an image, or ask what it is."""

from __future__ import annotations

from collections.abc import Mapping

from savefmt.image import SaveImage
from savefmt.model import ImageSummary, IOOptions, OnProgress, StrPath
from savefmt.reading.source import Source


def open(
    path: StrPath,
    *,
    snapshot: str | None = None,
    offset: int = 0,
    shared: Mapping[str, StrPath] | None = None,
    io: IOOptions = IOOptions(),
    strict: bool = True,
    index: StrPath | None = None,
    places: Mapping[str, int] | None = None,
    salvage: bool = False,
    bad: StrPath | None = None,
    unproven: bool = False,
) -> SaveImage:
    """Open a save image for reading.

    Parameters
    ----------
    path : str or os.PathLike
        A libvirt save image or a bare QEMU stream, in any layout and codec; or a qcow2 disk
        image, ``disk.qcow2:NAME`` for a snapshot in it.
    snapshot : str, optional
        Name or ID of the internal snapshot, in a qcow2 disk image.
    offset : int
        Where in the file the image begins.
    shared : mapping of str to str or os.PathLike, optional
        Files with the RAM blocks that were left out of the image (x-ignore-shared), by idstr.
    io : IOOptions
        How its pages are read.
    strict : bool
        False opens unfinished images too and collects oddities in `findings`.
    index : str or os.PathLike, optional
        A file that keeps the index of a sequential image from one reading to the next, or
        ``"auto"`` for one in the user's cache folder.  Made when needed; ignored and made again
        when it belongs to another image.
    places : mapping of str to int, optional
        Guest-physical addresses of RAM blocks, by idstr: they override what the image and the
        rules of its machine say.
    salvage : bool
        Take what can be read of a damaged image; `SaveImage.rescue` tells what is lost.
    bad : str or os.PathLike, optional
        A GNU ddrescue map file, for `salvage`: savefmt does not read what ddrescue could not
        copy.
    unproven : bool
        For `salvage`: take what was unpacked of damaged compressed data, too.

    Returns
    -------
    SaveImage
        To be closed.

    Raises
    ------
    NotASaveImageError, IncompleteImageError, TruncatedError, CorruptError
        What is wrong with the file.
    UnsupportedError
        What is beyond this release.
    ImageIOError
        What the operating system refused.
    """
    if snapshot is not None or offset or shared or salvage:
        more = tuple((shared or {}).items())
        path = Source(path, snapshot, offset, more, salvage, bad, unproven=unproven)
    return SaveImage(path, io=io, strict=strict, index=index, places=places)


def probe(
    path: StrPath,
    *,
    pages: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> ImageSummary:
    """Tell what an image is, from its headers alone.

    Parameters
    ----------
    path : str or os.PathLike
        The image; an unfinished one is described too.
    pages : bool
        Also count the pages of a sequential image, which reads all of it.
    io, progress
        For that reading.

    Returns
    -------
    ImageSummary
        As `savefmt info` prints it.
    """
    with SaveImage(path, io=io, strict=False) as image:
        return image.summary(pages=pages, progress=progress)
