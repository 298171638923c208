"""What follows the RAM of a stream: device sections, EOF mark, vmdescription."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from types import TracebackType
from typing import IO, Any, Self

from savefmt.errors import CorruptError, FormatError, TruncatedError
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.stream import Command, EndOfStream, ItemType, SectionHead, StreamWalker
from savefmt.format.vmstate import Description, find_at_end
from savefmt.model import Finding, Section, Severity

COPY_LENGTH = 1 << 20
_MEMORY_LIMIT = 32 << 20
"""Device state beyond this goes to an unlinked temporary file."""

_DESCRIPTION_HEAD = re.compile(rb"\x00\x06(....)\{", re.DOTALL)
_SEARCH_LIMIT = 64 << 20
FOOTER_AND_EOF = 6

Pread = Callable[[int, int], bytes]
SectionKey = tuple[str, int]
"""Idstr and instance."""


class SectionDigests:
    """SHA-256 of what each section holds, over all parts that carry its name."""

    def __init__(self) -> None:
        self._states: dict[SectionKey, Any] = {}

    def update(self, idstr: str, instance_id: int, payload: bytes) -> None:
        """Add a payload, or a piece of one, in the order of the stream."""
        state = self._states.get((idstr, instance_id))
        if state is None:
            import hashlib  # late: `savefmt info` comes by here, too

            state = self._states[idstr, instance_id] = hashlib.sha256()
        state.update(payload)

    def keys(self) -> set[SectionKey]:
        """Return idstr and instance of all sections."""
        return set(self._states)

    def finish(self) -> dict[SectionKey, str]:
        """Return the digests."""
        return {key: state.hexdigest() for key, state in self._states.items()}


class Tail:
    """All bytes behind the end of RAM, readable again and again.

    Attributes
    ----------
    start, end : int
        Stream offsets.
    pread : callable
        ``pread(length, offset)`` in stream offsets.
    description : Description or None
        The vmdescription, if the stream has one.
    has_footers : bool
        Whether sections of this stream end in footers.
    announced : tuple of SectionHead
        Iterable sections that were started before, and may end here.
    """

    def __init__(
        self,
        start: int,
        end: int,
        pread: Pread,
        has_footers: bool = True,
        announced: tuple[SectionHead, ...] = (),
        close: Callable[[], None] | None = None,
        description: Description | None = None,
    ) -> None:
        self.start = start
        self.end = end
        self.pread = pread
        self.has_footers = has_footers
        self.announced = announced
        self._close = close
        self.description = description or find_at_end(self._pread_within, self.end)
        if self.description is not None and self.description.offset < self.start:
            self.description = None
        if self.description is None:
            self.description = self._search()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the temporary file, if there is one."""
        if self._close is not None:
            self._close()

    def _pread_within(self, length: int, offset: int) -> bytes:
        # find_at_end may look before the tail, where a spooled one has nothing.
        missing = max(self.start - offset, 0)
        if missing >= length:
            return b"\0" * length
        return b"\0" * missing + self.pread(length - missing, offset + missing)

    def _search(self) -> Description | None:
        """Find the description when something follows it."""
        data = self.pread(min(self.end - self.start, _SEARCH_LIMIT), self.start)
        for match in _DESCRIPTION_HEAD.finditer(data):
            length = int.from_bytes(match[1], "big")
            begin = match.end() - 1
            if begin + length <= len(data):
                try:
                    return Description.parse(
                        data[begin : begin + length], self.start + match.start() + 1
                    )
                except FormatError:
                    continue
        return None

    @property
    def stream_end(self) -> int:
        """Where the stream ends; bytes behind it belong to nobody."""
        if self.description is None:
            return self.end
        return self.description.offset + len(self.description.pack())

    def check_end(self) -> None:
        """Refuse a tail that was cut short.

        Raises
        ------
        TruncatedError
            If the EOF mark is not where it must be.
        """
        at = self.description.offset if self.description is not None else self.end
        last = self.pread(min(FOOTER_AND_EOF, at - self.start), max(at - 6, self.start))
        whole = last[-1:] == bytes([ItemType.EOF])
        if self.has_footers and len(last) == FOOTER_AND_EOF:
            whole = whole and last[0] == ItemType.FOOTER
        elif self.has_footers:  # no room for a section
            whole = whole and len(last) == 1
        if not whole:
            raise TruncatedError(
                "the stream ends among the device sections, without its EOF mark; "
                "the file was cut short, so get a complete copy",
                offset=self.end,
            )

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes between two stream offsets."""
        while start < end:
            data = self.pread(min(COPY_LENGTH, end - start), start)
            if not data:
                raise TruncatedError("the file became shorter while it was read", offset=start)
            yield data
            start += len(data)

    def pieces(self, description: Description | None) -> Iterator[bytes]:
        """Yield the tail with another description in the place of its own."""
        if self.description is None or description is None:
            yield from self.chunks(self.start, self.end)
            return
        yield from self.chunks(self.start, self.description.offset)
        yield description.pack()
        yield from self.chunks(self.stream_end, self.end)

    def sections(self, findings: list[Finding] | None = None) -> Iterator[Section]:
        """Yield the device sections, as far as lengths are known.

        Raises
        ------
        CorruptError, TruncatedError, NeedDescription
            Where the walk cannot go on.
        """
        cursor = FileCursor(self.pread, self.start, self.end)
        walker = StreamWalker(cursor, description=self.description, findings=findings)
        walker.has_footers = self.has_footers
        for head in self.announced:
            walker.announce(head)
        while True:
            item = walker.next_item()
            if isinstance(item, EndOfStream):
                break
            if isinstance(item, SectionHead):
                yield self._pass_section(walker, item)
                walker.finish_section(item)
            elif not isinstance(item, Command):
                raise AssertionError(item)
        if self.description is not None and cursor.tell() != self.description.offset:
            raise CorruptError(
                "the EOF mark stands before the device sections end", offset=cursor.tell() - 1
            )
        if findings is not None and self.stream_end < self.end:
            findings.append(
                Finding(
                    "stream.trailing-data",
                    Severity.NOTE,
                    f"{self.end - self.stream_end} bytes follow the end of the stream",
                    self.stream_end,
                    "QEMU never reads them; `savefmt convert` drops nothing of them",
                )
            )

    def _pass_section(self, walker: StreamWalker, head: SectionHead) -> Section:
        start = walker.cursor.tell()
        walker.skip_payload(head)
        length = walker.cursor.tell() - start
        return Section(head.idstr, head.instance_id, head.version, head.section_id, start, length)

    def digest(self, start: int, length: int) -> str:
        """SHA-256 of a stretch of the tail."""
        import hashlib

        state = hashlib.sha256()
        for data in self.chunks(start, start + length):
            state.update(data)
        return state.hexdigest()

    def devices_digest(self) -> str:
        """SHA-256 of all from the end of RAM to the vmdescription, or to the end."""
        end = self.description.offset if self.description is not None else self.end
        return self.digest(self.start, end - self.start)


def spool_tail(
    cursor: Cursor,
    offset: int,
    prefix: bytes,
    has_footers: bool,
    announced: tuple[SectionHead, ...],
) -> Tail:
    """Keep what is left of a stream that can be read only once.

    Parameters
    ----------
    cursor : Cursor
        Behind the end of RAM.
    offset : int
        Stream offset of the first byte of the tail.
    prefix : bytes
        Bytes at `offset` that were consumed already.
    has_footers, announced
        As for `Tail`.

    Returns
    -------
    Tail
        In memory, or in an unlinked temporary file where it is long.
    """
    spool: IO[bytes] = BytesIO()

    def pread(length: int, at: int) -> bytes:
        spool.seek(at - offset)
        return spool.read(length)

    try:
        spool.write(prefix)
        while len(window := cursor.window()):
            if isinstance(spool, BytesIO) and spool.tell() + len(window) > _MEMORY_LIMIT:
                spool = _moved_to_disk(spool)
            spool.write(window)
            cursor.advance(len(window))
        return Tail(offset, cursor.tell(), pread, has_footers, announced, spool.close)
    except BaseException:
        spool.close()
        raise


def _moved_to_disk(spool: BytesIO) -> IO[bytes]:
    import tempfile  # late: most tails are short

    file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        file.write(spool.getbuffer())
    except BaseException:
        file.close()
        raise
    return file
