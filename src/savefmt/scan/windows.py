"""Going through the guest's memory: one way for every form of image, in bounded memory.

Memory is read in windows: stretches of a block together with the bytes around them. They come
in the order of the blocks and of the places in these, not in the order of the pages in the
file. A page that was sent more than once has its last content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from savefmt.errors import AddressError, UnsupportedError, located
from savefmt.frozen import dataclass
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.progress import Meter

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

WINDOW_LENGTH = 1 << 20
"""Small enough that a window stays in a core's cache from reading to searching."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring bytes of a block, from `start` to before `end`."""

    block: str
    start: int
    end: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch with its content, and with as many bytes around it as were requested.

    Attributes
    ----------
    stretch : Stretch
        The stretch of this window; no two windows of a walk share a byte of it.
    base : int
        Where in the block `data` begins, at or before the stretch.
    data : bytes
        From `base` on, to the end of the stretch or beyond.
    """

    stretch: Stretch
    base: int
    data: bytes

    @property
    def content(self) -> memoryview:
        """The stretch's own bytes."""
        start = self.stretch.start - self.base
        return memoryview(self.data)[start : start + self.stretch.length]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a walk looks at.

    Attributes
    ----------
    lead, tail : int
        Bytes wanted before and behind each stretch, as far as the block goes; there may
        be more, since pages are read whole.
    margin : int
        How far around data zeros are part of a stretch, too: what is looked for may
        begin or end among them.
    zeros : bool
        Whether all zeros are.
    """

    lead: int = 0
    tail: int = 0
    margin: int = 0
    zeros: bool = False


class Memory:
    """The blocks of an image that can be gone through.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    blocks : sequence of str, optional
        Only these.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Attributes
    ----------
    lengths : dict of str to int
        Bytes of each block that the image holds, in the order of the file.
    left_out : tuple of str
        Blocks that the image lists and does not hold.

    Raises
    ------
    AddressError
        If there is no such block.
    """

    def __init__(
        self,
        image: SaveImage,
        blocks: Sequence[str] | None = None,
        *,
        io: IOOptions = IOOptions(),
        progress: OnProgress | None = None,
    ) -> None:
        self.image = image
        self._threads = io.worker_count
        self._meter = Meter(progress, image.length, "reading")
        known = {block.idstr: block.used_length for block in image.head.blocks.blocks}
        for name in blocks or ():
            if name not in known:
                raise AddressError(
                    f"the image has no RAM block {name!r}; it has: {', '.join(known)}",
                    path=image.path,
                )
        # Before threads ask for them, and while progress can be reported.
        image.memory.prepare(Meter(progress, image.length, "finding pages"))
        wanted = [name for name in known if blocks is None or name in blocks]
        held = [name for name in wanted if self._is_held(name)]
        self.lengths = {name: known[name] for name in held}
        self.left_out = tuple(name for name in wanted if name not in held)

    def _is_held(self, block: str) -> bool:
        try:
            self.image.memory.read(block, 0, 0)
        except UnsupportedError:
            return False
        return True

    @property
    def page_size(self) -> int:
        """Bytes a page."""
        return self.image.page_size

    def stretches(self, reach: Reach = Reach()) -> Iterator[Stretch]:
        """Yield what is to be looked at, whole.

        Parameters
        ----------
        reach : Reach
            Which zeros belong to it.

        Yields
        ------
        Stretch
            Ascending in each block, no two touching.
        """
        for block, length in self.lengths.items():
            whole = Stretch(block, 0, length)
            found = [whole] if reach.zeros else self._data(block, length, reach.margin)
            for stretch in found:
                yield from self._known(stretch)

    def _known(self, stretch: Stretch) -> Iterator[Stretch]:
        """Leave out what is lost of a damaged image: that is no zeros."""
        rescue = self.image.rescue
        if rescue is None:
            yield stretch
            return
        start = stretch.start
        for lost, end in rescue.lost_bytes(stretch.block, start, stretch.length):
            if start < lost:
                yield Stretch(stretch.block, start, lost)
            start = end
        if start < stretch.end:
            yield Stretch(stretch.block, start, stretch.end)

    def _data(self, block: str, length: int, margin: int) -> Iterator[Stretch]:
        size = self.page_size
        pending: Stretch | None = None
        for run in self.image.memory.runs(block):
            start = max(run.first * size - margin, 0)
            end = min((run.first + run.count) * size + margin, length)
            if pending is not None and start <= pending.end:
                pending = Stretch(block, pending.start, end)
                continue
            if pending is not None:
                yield pending
            pending = Stretch(block, start, end)
        if pending is not None:
            yield pending

    def windows(self, reach: Reach = Reach()) -> Iterator[Window]:
        """Yield windows in order, read ahead in parallel.

        Parameters
        ----------
        reach : Reach
            What they cover.

        Yields
        ------
        Window
            At most `WINDOW_LENGTH` bytes each, not counting the bytes around them.
        """
        return self.each(lambda window: window, reach)

    def each(self, work: Callable[[Window], T], reach: Reach = Reach()) -> Iterator[T]:
        """Do something to each window, in threads, and yield the results in order.

        Parameters
        ----------
        work : callable
            Thread-safe.
        reach : Reach
            What the windows cover.

        Yields
        ------
        object
            What `work` returned, as soon as all before it was yielded.
        """

        def read_and_work(place: Stretch) -> T:
            return work(self.read(place, reach))

        self._meter.phase = "reading"
        self._meter.total = sum(place.length for place in self.stretches(reach))
        places = chain.from_iterable(_cut(place) for place in self.stretches(reach))
        done = 0
        with self.image.file.unchanged():
            for place, result in _in_order(read_and_work, places, self._threads):
                yield result
                done += place.length
                self._meter.update(done)

    def read(self, place: Stretch, reach: Reach = Reach()) -> Window:
        """Read one window."""
        size = self.page_size
        base = max(place.start - reach.lead, 0) // size * size
        end = min(-(-(place.end + reach.tail) // size) * size, self.lengths[place.block])
        if (rescue := self.image.rescue) is not None:  # lost bytes next to it are not zeros
            lost = rescue.lost_bytes
            base = max([base, *(last for _, last in lost(place.block, base, place.start - base))])
            end = min([end, *(at for at, _ in lost(place.block, place.end, end - place.end))])
        with located(self.image.filename):
            data = self.image.memory.read(place.block, base, end - base)
        return Window(place, base, data)


def _cut(place: Stretch) -> Iterator[Stretch]:
    """Cut a stretch at the multiples of the window's length."""
    start = place.start
    while start < place.end:
        end = min(start - start % WINDOW_LENGTH + WINDOW_LENGTH, place.end)
        yield Stretch(place.block, start, end)
        start = end


def _in_order(
    work: Callable[[Stretch], T], places: Iterable[Stretch], threads: int
) -> Iterator[tuple[Stretch, T]]:
    """Yield places with their results in order, no more than a few of them ahead."""
    from concurrent.futures import ThreadPoolExecutor

    rest = iter(places)
    pool = ThreadPoolExecutor(threads, "savefmt-scan")
    ahead: deque[tuple[Stretch, Future[T]]] = deque()
    try:
        for place in islice(rest, 2 * threads):
            ahead.append((place, pool.submit(work, place)))
        while ahead:
            place, future = ahead.popleft()
            result = future.result()
            ahead.extend((place, pool.submit(work, place)) for place in islice(rest, 1))
            yield place, result
    finally:
        pool.shutdown(cancel_futures=True)
