"""How long a result will be, as far as that can be known, for a target that cannot grow."""

from __future__ import annotations

from savefmt.convert import frommapped, fromsequential
from savefmt.convert.pipeimage import PipeImage
from savefmt.convert.planning import TargetForm
from savefmt.errors import ConversionError
from savefmt.format.mappedram import place_all
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout, StrPath
from savefmt.progress import Meter
from savefmt.writing.volumes import is_volume, volume_length

_STRICT = frozenset({"gzip", "xz", "zstd"})
"""Programs that fail on what follows their data; bzip2 and lzop pass it by."""


class _CountingSink:
    """Counts what it takes, and keeps nothing."""

    def __init__(self) -> None:
        self.taken = 0

    def write(self, data: bytes | memoryview) -> None:
        """Count `data`."""
        self.taken += len(data)

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to give up."""


def require_room(
    source: SaveImage | PipeImage, form: TargetForm, target: str, io: IOOptions, meter: Meter
) -> None:
    """Refuse a block device that is too small, before anything is written.

    An uncompressed copy of a compressed image is measured by reading that once.  How long
    a compressed result gets, or one of a pipe, is only known in the end; of a mapped-ram
    result of a sequential image all but the devices is known.

    Parameters
    ----------
    source : SaveImage or PipeImage
        What is converted.
    form : TargetForm
        Into what.
    target : str
        Anything that is no block device can grow.
    io, meter
        As everywhere.

    Raises
    ------
    ConversionError
        If it is too small.
    """
    room = volume_length(target)
    if room is None:
        return
    needed = _needed_length(source, form, room, io, meter)
    if needed > room:
        raise ConversionError(
            f"the image takes {needed} bytes or more, and this device has {room}; nothing was "
            "written",
            path=target,
        )


def volume_notes(codec: str, target: StrPath) -> list[str]:
    """Tell what is worth knowing of an image on a block device."""
    if codec not in _STRICT or not is_volume(target):
        return []
    return [
        f"virsh restore will fail from this device: libvirt gives {codec} the whole device, "
        f"and {codec} refuses the bytes behind the image; raw and sparse images can be "
        "restored from a device"
    ]


def _needed_length(
    source: SaveImage | PipeImage, form: TargetForm, room: int, io: IOOptions, meter: Meter
) -> int:
    """Tell how many bytes a result takes, or the most that is known of it."""
    offset = form.envelope.stream_offset if form.envelope is not None else 0
    if isinstance(source, PipeImage):
        return offset
    if form.layout is Layout.MAPPED_RAM:
        if source.layout is Layout.MAPPED_RAM:
            return frommapped.relocated_length(source, offset, form)
        blocks = source.head.blocks
        placed = place_all(form.renamed(blocks.blocks), offset, blocks.page_size, align=form.align)
        return placed[-1].next_offset if placed else offset
    if form.codec != "raw":
        return offset
    if source.layout is Layout.MAPPED_RAM:
        return offset + frommapped.sequential_length(source, form.cuts)
    stored = source.length - source.stored_offset
    if not source.packing.packed and offset + stored <= room:
        return offset + stored
    sink = _CountingSink()
    fromsequential.copy_stream(source, sink, io, None, meter, form.cuts)
    return offset + sink.taken
