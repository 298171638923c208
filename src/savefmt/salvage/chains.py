"""Records that may be wrong because whole records were cut out of a stream.

A cut begins and ends anywhere: the record in front of it may have the end of another page's
content, and the record behind it a part of another address. Most records do not name their
block, but continue the block of the record before. If the cut took a name, the rest of its
block seems to continue the block before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from savefmt.frozen import dataclass
from savefmt.native.core import blank
from savefmt.salvage.elements import Element
from savefmt.salvage.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What may have slipped in among the records of a block.

    Attributes
    ----------
    pages : Ranges
        Pages that other blocks lack.
    longest : int
        Pages of the longest of these blocks.
    """

    pages: Ranges
    longest: int


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stream without visible damage should hold, and does not.

    Attributes
    ----------
    counts : sequence of int
        Pages of each block.
    excused : sequence of Ranges
        Pages of each block that need not come.
    missing : sequence of Ranges
        Pages of each block that should have come.
    in_order : bool
        Blocks were sent one after the other, each from its first page on.  Then the name of
        a block is lost with its first page, and what is left of it continues the last block
        before it that has a name.
    """

    counts: Sequence[int]
    excused: Sequence[Ranges]
    missing: Sequence[Ranges]
    in_order: bool

    def next_page(self, block: int, page: int) -> tuple[int, int] | None:
        """Return what comes next where every page comes once: block and page."""
        page += 1
        while block < len(self.counts):
            for first, _ in self.excused[block].outside(page, self.counts[block]):
                return block, first
            block, page = block + 1, 0
        return None

    def suspicions(self) -> dict[int, Suspicion]:
        """Tell among which blocks' records there may be those of others, by number."""
        found: dict[int, Suspicion] = {}
        for number, missing in enumerate(self.missing):
            for other in self._hosts(number) if len(missing) else ():
                known = found.get(other, Suspicion(Ranges(), 0))
                for first, end in missing:
                    known.pages.add(first, end)
                found[other] = Suspicion(known.pages, max(known.longest, self.counts[number]))
        return found

    def _hosts(self, number: int) -> Iterator[int]:
        if not self.in_order:
            yield from (i for i in range(len(self.counts)) if i != number)
        elif self._nameless(number):
            named = (i for i in range(number - 1, -1, -1) if not self._nameless(i))
            if (host := next(named, None)) is not None:
                yield host

    def _nameless(self, number: int) -> bool:
        first = next(self.excused[number].outside(0, self.counts[number]), None)
        return first is None or self.missing[number].overlap(first[0], first[0] + 1)


class Doubts:
    """Tells which records of a stream are in doubt.  The stream must be gone through twice.

    Parameters
    ----------
    expected : Expected, optional
        Without it, nothing is in doubt.
    seen : Doubts, optional
        What saw the same stream before; without it, this one only looks.
    """

    def __init__(self, expected: Expected | None = None, seen: Doubts | None = None) -> None:
        self._expected = expected
        self._suspected = expected.suspicions() if expected is not None else {}
        self._judging = seen is not None
        self._parts, self._gaps = seen.end() if seen is not None else (Ranges(), Ranges())
        self._came = [blank(-(-count // 8)) for count in expected.counts] if expected else []
        self._last: Element | None = None
        self._page = 0
        self._start = 0
        self._ascending = True

    def __bool__(self) -> bool:
        return self._expected is not None

    def see(self, element: Element, page: int) -> bool:
        """Take notice of a page record, and tell whether it is in doubt.

        Parameters
        ----------
        element : Element
            They come in the order of the stream, and all have a block.
        page : int
            Its number in its block.
        """
        if self._expected is None:
            return False
        if self._judging:
            return self._is_doubtful(element, page)
        assert element.block is not None
        self._follow(element, page)
        if self._skips((element.block, page)):
            self._gaps.add(element.start, element.end)
        self._came[element.block][page // 8] |= 1 << page % 8
        self._last, self._page = element, page
        return False

    def end(self) -> tuple[Ranges, Ranges]:
        """Return where records may be those of other blocks, and records beside a gap."""
        self._skips(None)
        self._end_chain()
        return self._parts, self._gaps

    def _skips(self, found: tuple[int, int] | None) -> bool:
        """Tell whether what follows the last record is not what should, which never came yet."""
        last = self._last
        if last is None or last.block is None or self._expected is None:
            return False
        wanted = self._expected.next_page(last.block, self._page)
        if wanted is None or wanted == found:
            return False
        block, page = wanted
        if self._came[block][page // 8] >> page % 8 & 1:
            return False
        self._gaps.add(last.start, last.end)
        return True

    def _follow(self, element: Element, page: int) -> None:
        """Follow the records that continue a block.

        As long as its pages ascend they are its own, if the last of them lies beyond the end of
        all blocks in question: what is behind those of another cannot be its own again.
        """
        if element.named:
            self._end_chain()
            self._start, self._ascending = element.end, True
        elif self._ascending and page <= self._page:
            self._end_chain()
            self._start, self._ascending = element.start, False

    def _end_chain(self) -> None:
        last = self._last
        suspicion = self._suspected.get(last.block) if last and last.block is not None else None
        if suspicion is not None and not (self._ascending and self._page >= suspicion.longest):
            assert last is not None
            self._parts.add(self._start, last.end)

    def _is_doubtful(self, element: Element, page: int) -> bool:
        if self._gaps.overlap(element.start, element.end):
            return True
        suspicion = self._suspected.get(element.block) if element.block is not None else None
        return (
            suspicion is not None
            and not element.named
            and suspicion.pages.overlap(page, page + 1)
            and self._parts.overlap(element.start, element.end)
        )


NO_DOUBTS = Doubts()
"""Of a stream from which nothing seems to be cut out."""
