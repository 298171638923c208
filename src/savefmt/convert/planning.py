"""What to write: from the request and the source to a target, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from savefmt.errors import ConversionError
from savefmt.format.envelope import FEATURE_MAPPED_RAM, Envelope
from savefmt.format.mappedram import PAGES_ALIGN
from savefmt.format.ram import ListedBlock
from savefmt.format.wire import encode_name
from savefmt.frozen import dataclass, replace
from savefmt.model import Layout

if TYPE_CHECKING:
    from savefmt.codec.base import Codec

SPARSE_FORMAT = 6
DISCARD = "null"
"""The codec that writes nothing: reading at the speed of light."""


def _codec(name: str) -> Codec:
    from savefmt.codec.registry import find_codec  # late: raw and sparse need none

    return find_codec(name)


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What the caller asked for; None means as in the source.

    Attributes
    ----------
    layout, codec, save_version
        As for `savefmt.convert`.
    bare : bool
        Leave the envelope out.
    to_pipe : bool
        The target cannot be sought in.
    """

    layout: Layout | None
    codec: str | None
    save_version: int | None
    bare: bool
    to_pipe: bool

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises
        ------
        ConversionError
            With the reason.
        """
        sparse = self.layout is Layout.MAPPED_RAM
        if self.codec not in (None, "raw", DISCARD):
            _codec(self.codec)
            if sparse:
                raise ConversionError(
                    "the sparse layout keeps pages at fixed places and cannot be compressed; "
                    "choose one of the two"
                )
        if self.save_version not in (None, 1, 2, 3):
            raise ConversionError(f"save version {self.save_version} does not exist; 1, 2 or 3")
        if self.save_version == 1 and sparse:
            raise ConversionError(
                "save version 1 cannot hold the sparse layout: its header has no format; "
                "choose version 2 or 3"
            )
        if self.save_version == 1 and self.codec not in (None, "raw", DISCARD):
            raise ConversionError(
                "save version 1 cannot hold a compressed stream: its header has no format; "
                "choose version 2 or 3"
            )
        if self.bare and self.save_version is not None:
            raise ConversionError("a bare stream has no save version; choose one of the two")
        if sparse and self.to_pipe:
            raise ConversionError(
                "sparse output needs a file that can be sought in, not a pipe; "
                "name a file, or choose a sequential format"
            )


@dataclass(frozen=True, slots=True)
class TargetForm:
    """What shall be written.

    Attributes
    ----------
    layout : Layout
        Of the stream.
    codec : str
        ``raw``, the name of a codec, or `DISCARD`.
    envelope : Envelope or None
        None for a bare stream.
    changes : tuple of str
        What differs from the source, in words, except layout and codec.
    cuts : tuple of (int, int)
        Stretches of the decompressed source that are left out: start and end.
    names : tuple of (str, str)
        Old and new names of some blocks, for a mapped-ram result.
    align : int
        The alignment of page areas of a mapped-ram result.
    """

    layout: Layout
    codec: str
    envelope: Envelope | None
    changes: tuple[str, ...]
    cuts: tuple[tuple[int, int], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    align: int = PAGES_ALIGN

    def renamed(self, blocks: Sequence[ListedBlock]) -> tuple[ListedBlock, ...]:
        """Return blocks with their names in the result."""
        new = dict(self.names)
        return tuple(
            replace(block, name=encode_name(new[block.idstr])) if block.idstr in new else block
            for block in blocks
        )


def choose_form(
    request: ConversionRequest, envelope: Envelope | None, layout: Layout, codec: str
) -> TargetForm:
    """Choose layout, codec and envelope of the target.

    Parameters
    ----------
    request : ConversionRequest
        Already checked.
    envelope : Envelope or None
        Of the source.
    layout : Layout
        The layout of the source's stream, even if its envelope says something else.
    codec : str
        Of the source.

    Returns
    -------
    TargetForm
        Complete.

    Raises
    ------
    ConversionError
        If the target cannot hold the source.
    """
    compresses = request.codec not in (None, "raw")
    target_layout = request.layout or (Layout.SEQUENTIAL if compresses else layout)
    if request.codec is not None:
        target_codec = request.codec
    elif target_layout is Layout.SEQUENTIAL and layout is Layout.SEQUENTIAL:
        target_codec = codec
    else:
        target_codec = "raw"
    if target_layout is Layout.MAPPED_RAM and request.to_pipe:
        raise ConversionError(
            "the result would be sparse, which needs a file that can be sought in, not a pipe; "
            "name a file, or choose a sequential format"
        )
    target_envelope, changes = _choose_envelope(request, envelope, target_layout, target_codec)
    return TargetForm(target_layout, target_codec, target_envelope, tuple(changes))


def _choose_envelope(
    request: ConversionRequest, envelope: Envelope | None, layout: Layout, codec: str
) -> tuple[Envelope | None, list[str]]:
    if envelope is None:
        if request.save_version is not None:
            raise ConversionError(
                "the source is a bare stream without domain XML, so no save image of any "
                "version can be made of it; convert without --save-version"
            )
        return None, []
    if request.bare:
        return None, ["envelope, domain XML and cookie dropped"]
    number = 0 if codec in ("raw", DISCARD) else _codec(codec).libvirt_format
    mapped = layout is Layout.MAPPED_RAM
    changes = []
    version = request.save_version or envelope.version
    if version == 1 and (mapped or number):
        if request.save_version == 1:
            raise ConversionError(
                "save version 1 can hold an uncompressed sequential stream only; "
                "choose version 2 or 3"
            )
        version = 2
    if version != envelope.version:
        changes.append(f"save version {envelope.version} became {version}")
    if version == 3:
        features = FEATURE_MAPPED_RAM if mapped else 0
    else:
        features = 0
        number = SPARSE_FORMAT if mapped else number
    result = envelope.with_stream(version=version, format=number, features=features)
    return result, changes
