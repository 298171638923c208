"""The memory of processes, read by their own addresses.

Pages that are neighbours there are rarely neighbours in physical memory. So only here can a
text or a pattern be found that crosses the border of two pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from savefmt.errors import AddressError, located
from savefmt.frozen import dataclass
from savefmt.guest.mappings import VirtualRange, Walk
from savefmt.image import SaveImage
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernelmemory import PAGE
from savefmt.linux.opening import open_kernel
from savefmt.linux.processes import space_of, tasks
from savefmt.linux.walks import damage_told
from savefmt.model import IOOptions, OnProgress
from savefmt.scan.search import Places
from savefmt.scan.windows import Memory, Reach, Stretch, Window

MAPPINGS_LIMIT = 1 << 19
"""Mappings of a process at most, neighbours joined."""


@dataclass(frozen=True, slots=True)
class _Space:
    """What a process has mapped, ascending, and where each part begins."""

    mappings: list[VirtualRange]
    starts: list[int]

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield physical address and length of what is mapped from `start` on without a gap."""
        number = bisect_right(self.starts, start) - 1
        while start < end and 0 <= number < len(self.mappings):
            mapping = self.mappings[number]
            inside = start - mapping.virtual
            if not 0 <= inside < mapping.length:
                return
            count = min(mapping.length - inside, end - start)
            yield mapping.physical + inside, count
            start, number = start + count, number + 1

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is mapped without a gap."""
        start = end = 0
        for mapping in self.mappings:
            if mapping.virtual != end:
                if end > start:
                    yield start, end
                start = mapping.virtual
            end = mapping.virtual + mapping.length
        if end > start:
            yield start, end


class ProcessMemory(Memory):
    """The memory of processes: each process is used like a block, and its addresses like offsets.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    pids : collection of int
        The processes; none: all.
    io, progress
        As for `savefmt.scan.windows.Memory`.

    Attributes
    ----------
    lost_tables, lost_length : int
        Page tables that are lost, of a damaged image, and bytes of what the others map.

    Raises
    ------
    AddressError
        If there is no such process, or it has no memory of its own.
    """

    def __init__(
        self,
        kernel: Kernel,
        pids: Collection[int] = (),
        *,
        io: IOOptions = IOOptions(),
        progress: OnProgress | None = None,
    ) -> None:
        super().__init__(kernel.image, (), io=io, progress=progress)
        self._physical = kernel.image.guest.physical
        self._spaces: dict[str, _Space] = {}
        self.lost_tables = self.lost_length = 0
        found = set()
        for task in tasks(kernel, frozenset(pids) or None):
            space = space_of(kernel, task)
            if space is None:
                continue
            walk = Walk(space.tables)
            mapped = islice(walk.lower_half(), MAPPINGS_LIMIT)
            mappings = [
                part for one in mapped if self._is_memory(one) for part in self._recovered(one)
            ]
            self.lost_tables += walk.damaged
            found.add(task.pid)
            name = f"{task.name}({task.pid})"
            self._spaces[name] = _Space(mappings, [one.virtual for one in mappings])
            self.lengths[name] = max((one.virtual + one.length for one in mappings), default=0)
        missing = sorted(set(pids) - found)
        if missing:
            raise AddressError(
                f"there is no process {missing[0]} with memory of its own; `savefmt linux "
                "IMAGE ps` lists all",
                path=kernel.image.path,
            )

    def _is_memory(self, mapping: VirtualRange) -> bool:
        """Whether RAM or ROM lies there, and no device."""
        pieces = self._physical.pieces(mapping.physical, mapping.length)
        try:
            return all(item.kind != "device" for item, _, _ in pieces)
        except AddressError:
            return False

    def _recovered(self, mapping: VirtualRange) -> Iterator[VirtualRange]:
        """Leave out what is lost of a damaged image: that is no zeros."""
        rescue = self.image.rescue
        if rescue is None:
            yield mapping
            return
        virtual, physical = mapping.virtual, mapping.physical
        for item, offset, count in self._physical.pieces(physical, mapping.length):
            at, end = offset, offset + count
            for first, behind in (*rescue.lost_bytes(item.block, offset, count), (end, end)):
                if at < first:
                    inside = at - offset
                    yield VirtualRange(virtual + inside, physical + inside, first - at)
                self.lost_length += behind - first
                at = behind
            virtual, physical = virtual + count, physical + count

    def stretches(self, reach: Reach = Reach()) -> Iterator[Stretch]:
        """Yield what is mapped."""
        for name, space in self._spaces.items():
            for start, end in space.stretches():
                yield Stretch(name, start, end)

    def read(self, place: Stretch, reach: Reach = Reach()) -> Window:
        """Read one window, and as much around it as is mapped without a gap."""
        space = self._spaces[place.block]
        base = place.start
        while base > max(place.start - reach.lead, 0) and any(space.parts(base - 1, base)):
            base = max(base - base % PAGE - PAGE * (not base % PAGE), 0)
        with located(self.image.path):
            data = b"".join(
                self._physical.read(physical, count)
                for physical, count in space.parts(base, place.end + reach.tail)
            )
        return Window(place, base, data)

    def physical(self, block: str, offset: int) -> tuple[int, ...]:
        """Return the guest-physical address of a place."""
        return tuple(physical for physical, _ in self._spaces[block].parts(offset, offset + 1))

    def physical_of(self, stretch: Stretch) -> tuple[int, ...] | None:
        """Return where a stretch is; None if it is not in one piece."""
        parts = list(islice(self._spaces[stretch.block].parts(stretch.start, stretch.end), 2))
        whole = len(parts) == 1 and parts[0][1] == stretch.length
        return (parts[0][0],) if whole else None


class ProcessPlaces(Places):
    """Addresses of places in the memory of processes.

    Parameters
    ----------
    memory : ProcessMemory
        The memory.
    """

    def __init__(self, memory: ProcessMemory) -> None:
        super().__init__(memory.image)
        self._memory = memory
        if memory.lost_tables or memory.lost_length:
            self.problem = (
                f"of the memory of processes, {memory.lost_length // PAGE} pages are lost, and "
                f"{memory.lost_tables} page tables with all that they map"
            )

    def physical(self, block: str, offset: int) -> tuple[int, ...]:
        """Return the guest-physical address of a place."""
        return self._memory.physical(block, offset)

    def physical_of(self, stretch: Stretch) -> tuple[int, ...] | None:
        """Return where a stretch is; None if it is not in one piece."""
        return self._memory.physical_of(stretch)

    def virtual(self, block: str, offset: int, physical: Sequence[int]) -> tuple[int, ...]:
        """Return its own address."""
        return (offset,)


def process_memory(
    image: SaveImage,
    pids: Collection[int] = (),
    *,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> tuple[ProcessMemory, ProcessPlaces]:
    """Return the memory of processes, for `savefmt.scan`.

    Parameters
    ----------
    image : SaveImage
        Of a Linux guest; must stay open.
    pids : collection of int
        The processes; none: all.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    (ProcessMemory, ProcessPlaces)
        What to go through, and its addresses.
    """
    kernel = open_kernel(image)
    with damage_told(image.path):
        memory = ProcessMemory(kernel, pids, io=io, progress=progress)
    return memory, ProcessPlaces(memory)
