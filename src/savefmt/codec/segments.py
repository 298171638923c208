"""Places where decompression can start, found without unpacking any data.

zstd frames, xz blocks, lzop blocks and some gzip members state their lengths, plain and
compressed. A bzip2 file does not.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from savefmt.codec.boundaries import NoBoundaryError, Read
from savefmt.errors import CorruptError

MAX_SEGMENT = 64 << 20
"""Most plain bytes in a segment: reading one page unpacks that many."""

MAX_STEPS = 1 << 24
"""Most frames and blocks to look at; a file with more is a trap."""

_LEAST_SEGMENT = 1 << 20  # smaller ones are taken together
_MAX_SEGMENTS = 1 << 22

Unpack = Callable[[bytes, int, int], bytes]
"""``unpack(data, length, offset)`` gives the plain bytes of one segment: `length` of them,
unless that is a lie."""


class Segments:
    """Parts of a compressed stream that can be unpacked alone.

    Parameters
    ----------
    codec : str
        Its name, for messages.
    unpack : callable
        Unpacks one of them.
    head : bytes
        The bytes that make a file of a segment when they are put in front of it.

    Attributes
    ----------
    plain : array of int
        Where each begins among the plain bytes, and where the last ends.
    stored : array of int
        Where each begins in the file, and where the last ends.
    lengths : array of int
        Bytes that each takes in the file.
    """

    def __init__(self, codec: str, unpack: Unpack, head: bytes = b"") -> None:
        self._codec = codec
        self._unpack = unpack
        self._head = head
        self.plain = array("Q", [0])
        self.stored = array("Q")
        self.lengths = array("Q")

    def __len__(self) -> int:
        return len(self.stored)

    def add(self, stored: int, length: int, plain: int) -> None:
        """Put another segment behind the last.

        Raises
        ------
        NoBoundaryError
            If there are too many, or this one is too long.
        """
        if plain > MAX_SEGMENT or len(self.stored) == _MAX_SEGMENTS:
            raise NoBoundaryError
        self.stored.append(stored)
        self.lengths.append(length)
        self.plain.append(self.plain[-1] + plain)

    def unpack(self, read: Read, number: int) -> bytes:
        """Unpack one segment.

        Parameters
        ----------
        read : callable
            Gives bytes of the file.
        number : int
            Which one.

        Returns
        -------
        bytes
            All of it.

        Raises
        ------
        CorruptError
            If it is damaged, or its length a lie.
        """
        offset = self.stored[number]
        length = self.plain[number + 1] - self.plain[number]
        data = self._head + read(self.lengths[number], offset)
        plain = self._unpack(data, length, offset)
        if len(plain) != length:
            raise CorruptError(
                f"the {self._codec} data at compressed offset {offset:#x} do not have the "
                f"length that they state, {length} bytes",
                offset=offset,
            )
        return plain


class Gatherer:
    """Takes neighbours together until they are worth a segment of their own.

    Parameters
    ----------
    segments : Segments
        Gets them.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._stored = self._length = self._plain = 0
        self._steps = 0

    def add(self, stored: int, length: int, plain: int) -> None:
        """Take another one; raise as `Segments.add` does."""
        self._steps += 1
        if self._steps > MAX_STEPS or plain > MAX_SEGMENT:
            raise NoBoundaryError
        if self._plain and self._plain + plain > _LEAST_SEGMENT:
            self.flush()
        if not self._length:
            self._stored = stored
        self._length += length
        self._plain += plain

    def flush(self) -> None:
        """Make a segment of what was taken."""
        if self._length:
            self._segments.add(self._stored, self._length, self._plain)
        self._length = self._plain = 0
