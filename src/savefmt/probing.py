"""What an image is, for whoever wants to know nothing else of it."""

from __future__ import annotations

from savefmt.image import SaveImage
from savefmt.model import ImageSummary, IOOptions, OnProgress, StrPath


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
