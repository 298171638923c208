"""What an image is written to: a file that gets its name last, or a block device."""

from __future__ import annotations

from savefmt.model import StrPath
from savefmt.writing.output import OutputFile, check_target
from savefmt.writing.volumes import OutputVolume, check_volume, is_volume

ImageOutput = OutputFile | OutputVolume


def open_image_output(
    target: StrPath,
    *,
    overwrite: bool,
    direct: bool = False,
    engine: str = "auto",
) -> ImageOutput:
    """Begin an image.

    Parameters
    ----------
    target : str or os.PathLike
        A file, or a block device.
    overwrite : bool
        What is there may go.
    direct, engine
        As for both.

    Returns
    -------
    OutputFile or OutputVolume
        By what the target is.
    """
    if is_volume(target):
        return OutputVolume(target, overwrite=overwrite, direct=direct, engine=engine)
    return OutputFile(target, overwrite=overwrite, direct=direct, engine=engine)


def check_image_output(target: StrPath, *, overwrite: bool) -> None:
    """Refuse a target that may not be written, before the work rather than after it."""
    check = check_volume if is_volume(target) else check_target
    check(target, overwrite=overwrite)
