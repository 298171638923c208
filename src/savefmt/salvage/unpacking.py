"""The plain bytes of a damaged compressed stream, as far as they are proven.

A decoder may return wrong bytes before it notices damage, so no bytes behind the last checksum
count. If the file only ends too early, all unpacked bytes count. Behind damage it continues
with the next part that can be unpacked alone: a segment, a member, a block of bzip2.
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from contextlib import suppress

from savefmt.codec.base import Border
from savefmt.codec.bzip2 import Bzip2Codec
from savefmt.codec.members import MemberCodec
from savefmt.codec.registry import find_codec
from savefmt.codec.segments import Segments
from savefmt.errors import SavefmtError, TruncatedError
from savefmt.model import Damage, IOOptions
from savefmt.native.file import File
from savefmt.reading.spool import spool
from savefmt.salvage.ranges import Ranges
from savefmt.salvage.readable import Readable

GAP = 64 << 10
"""Bytes in the place of what is lost where nothing tells how many they were."""

_STEP = 1 << 20
_SMALL_STEP, _CHECKSUM_LENGTH = 4 << 10, 8
_MOST_RATIO = 1 << 16
_BLOCK, _END = 0x314159265359, 0x177245385090  # what a block of bzip2 and its last item begin with
_MARK_BITS, _CRC_BITS = 48, 32
_LONGEST_BLOCK = 2 << 20
_LEVEL = b"BZh9"
_LEAST_MAGIC = 4


class Unpacking:
    """Unpacks what can be unpacked into a temporary file.

    Parameters
    ----------
    source : Readable
        The file.
    codec : str
        What compressed it.
    start : int
        Where the compressed bytes begin.
    unproven : bool
        Keep what was unpacked before damage was noticed.

    Attributes
    ----------
    bad : Ranges
        Parts of the plain bytes that are lost.
    damages : list of Damage
        Where the compressed bytes are damaged.
    """

    def __init__(self, source: Readable, codec: str, start: int, *, unproven: bool = False) -> None:
        self._source = source
        self._unproven = unproven
        self._codec = find_codec(codec)
        self._start = start
        self._at = 0
        self.bad = Ranges()
        self.damages: list[Damage] = []

    def run(self, io: IOOptions) -> File:
        """Do it; the file is the caller's."""
        return spool(self._pieces(), io, needed=0)

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        segments = self._segments()
        if segments is not None:
            yield from self._by_segment(segments)
        elif isinstance(self._codec, Bzip2Codec):
            yield from self._by_block()
        else:
            yield from self._forward()

    def _note(self, start: int, end: int, error: SavefmtError) -> None:
        kind = "cut" if isinstance(error, TruncatedError) else "damaged"
        self.damages.append(Damage(start, end, kind, error.message))

    def _lose(self, length: int) -> None:
        self.bad.add(self._at, self._at + length)
        self._at += length

    # --- parts whose lengths are told ---

    def _segments(self) -> Segments | None:
        try:
            return self._codec.find_segments(self._exactly, self._start, self._source.length)
        except SavefmtError:
            return None

    def _exactly(self, length: int, offset: int) -> bytes:
        data = self._source.pread(length, offset)
        if len(data) < length or self._source.bad.overlap(offset, offset + length):
            raise TruncatedError("the file ends too early, or cannot be read", offset=offset)
        return data

    def _by_segment(self, segments: Segments) -> Iterator[tuple[int, bytes]]:
        for number in range(len(segments)):
            start, end = segments.plain[number], segments.plain[number + 1]
            try:
                yield start, segments.unpack(self._exactly, number)
                self._at = end
            except SavefmtError as error:
                stored = segments.stored[number]
                self._note(stored, stored + segments.lengths[number], error)
                self._at = start
                if self._unproven:
                    yield from self._partly(stored, end)
                self._lose(end - self._at)

    def _partly(self, stored: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Unpack what a decoder hands out of a segment before it gives up."""
        with suppress(SavefmtError):
            for piece in self._codec.open_reader(self._stored(stored), offset=stored):
                if isinstance(piece, Border) or self._at + len(piece) > end:
                    return
                yield self._at, bytes(piece)
                self._at += len(piece)

    # --- members, each with a checksum at its end ---

    def _forward(self) -> Iterator[tuple[int, bytes]]:
        at: int | None = self._start
        most = _MOST_RATIO * self._source.length
        while at is not None and self._at < most:
            proven, failure = self._at, None
            reached = at
            try:
                for piece in self._codec.open_reader(self._stored(at), offset=at):
                    if isinstance(piece, Border):
                        proven, reached, failure = self._at, piece.offset, piece.failure
                        continue
                    yield self._at, bytes(piece)
                    self._at += len(piece)
                    if self._at > most:
                        break
            except SavefmtError as error:
                failure = error
            if failure is None:
                return
            at = self._after(reached, proven, failure)

    def _stored(self, at: int) -> Iterator[bytes]:
        """Yield what can be read from an offset on, up to the first bad place."""
        while data := self._source.pread(self._step(at), at):
            for start, _ in self._source.bad.within(at, at + len(data)):
                if start > at:
                    yield data[: start - at]
                return
            yield data
            at += len(data)

    def _step(self, at: int) -> int:
        """Return how much a decoder is given: of the piece at which it fails, nothing comes."""
        behind = self._source.length - _CHECKSUM_LENGTH
        if not self._unproven or at >= behind:
            return _STEP
        return min(_SMALL_STEP, behind - at)

    def _after(self, reached: int, proven: int, failure: SavefmtError) -> int | None:
        """Give up bytes that are not proven; return where another member begins."""
        cut = isinstance(failure, TruncatedError)
        at = failure.offset if failure.offset is not None else reached
        if not cut and self._at > proven and not self._unproven:
            self.bad.add(proven, self._at)
        following = self._next_member(max(at, reached) + (0 if cut else 1))
        end = self._source.length if following is None else following
        self._note(reached if not cut else min(at, end), end, failure)
        if following is not None:
            self._lose(GAP)
        return following

    def _next_member(self, at: int) -> int | None:
        codec = self._codec
        if not isinstance(codec, MemberCodec) or len(codec.magic) < _LEAST_MAGIC:
            return None
        while at < self._source.length:
            data = self._source.pread(_STEP + len(codec.magic), at)
            found = data.find(codec.magic)
            if found >= 0:
                return at + found
            at += _STEP
        return None

    # --- blocks of bzip2, which begin at any bit ---

    def _by_block(self) -> Iterator[tuple[int, bytes]]:
        before, begun = 0, 0
        for bit, mark in self._marks():
            if begun == _BLOCK:
                yield from self._block(before, bit)
            before, begun = bit, mark
        if begun != _END:
            error = TruncatedError("the file ends inside a block of bzip2")
            self._note(before // 8, self._source.length, error)

    def _block(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Unpack the block between two marks."""
        start, end = first // 8, -(-last // 8)
        if last - first < _MARK_BITS + _CRC_BITS or end - start > _LONGEST_BLOCK:
            self._damaged(start, end)
            return
        data = int.from_bytes(self._source.pread(end - start, start), "big")
        data >>= end * 8 - last
        length = last - first
        data &= (1 << length) - 1
        crc = data >> (length - _MARK_BITS - _CRC_BITS) & 0xFFFFFFFF
        data = (data << _MARK_BITS | _END) << _CRC_BITS | crc
        length += _MARK_BITS + _CRC_BITS
        padded = data << -length % 8
        try:
            if self._source.bad.overlap(start, end):
                raise ValueError("bad sectors")
            plain = bz2.decompress(_LEVEL + padded.to_bytes(-(-length // 8), "big"))
        except (OSError, ValueError, EOFError):
            self._damaged(start, end)
            return
        yield self._at, plain
        self._at += len(plain)

    def _damaged(self, start: int, end: int) -> None:
        self.damages.append(Damage(start, end, "damaged", "a block of bzip2 that is damaged"))
        self._lose(GAP)

    def _marks(self) -> Iterator[tuple[int, int]]:
        """Yield where blocks and ends of streams begin, in bits, and which of both it is."""
        for at in range(self._start, self._source.length, _STEP):
            data = self._source.pread(_STEP + 8, at)
            found = set()
            for shift in range(8):
                for mark in (_BLOCK, _END):
                    # The whole bytes in the middle of a mark that begins at this bit.
                    whole = (mark << 8 >> shift) & ((1 << 56) - 1)
                    middle = whole.to_bytes(7, "big")[1:6]
                    place = data.find(middle)
                    while place >= 0:
                        bit = (at + place - 1) * 8 + shift
                        if place and self._bits(bit) == mark and bit < (at + _STEP) * 8:
                            found.add((bit, mark))
                        place = data.find(middle, place + 1)
            yield from sorted(found)

    def _bits(self, bit: int) -> int:
        data = int.from_bytes(self._source.pread(7, bit // 8).ljust(7, b"\0"), "big")
        return data >> (8 - bit % 8) & ((1 << _MARK_BITS) - 1)
