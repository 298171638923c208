"""Hashes of the guest's memory, the same for every form of image.

Two images of one guest agree, in every layout and codec: pages of zeros, and pages that an
image does not hold, count as zeros.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

from savefmt.errors import MissingPackageError, UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.scan.results import MemoryHash
from savefmt.scan.windows import Memory, Window

ALGORITHMS = ("sha256", "sha512", "sha1", "md5", "blake3", "xxh3")
"""blake3 and xxh3 come with the extra ``hash``."""

_ZEROS = bytes(1 << 20)


class Hash(Protocol):
    """What hashlib calls a hash object."""

    def update(self, data: Any, /) -> Any:
        """Take bytes."""

    def hexdigest(self) -> str:
        """Return the hash so far."""


def hash_factory(algorithm: str) -> Callable[[], Hash]:
    """Return what makes hash objects.

    Parameters
    ----------
    algorithm : str
        One of `ALGORITHMS`.

    Returns
    -------
    callable
        Without parameters.

    Raises
    ------
    ValueError
        If it is not one of them.
    UnsupportedError
        If its library is not installed.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is not one of {', '.join(ALGORITHMS)}")
    try:
        if algorithm == "blake3":
            from blake3 import blake3

            return blake3
        if algorithm == "xxh3":
            from xxhash import xxh3_128

            return xxh3_128
    except ImportError as error:
        package = {"xxh3": "xxhash"}.get(algorithm, algorithm)
        raise MissingPackageError(f"hash -a {algorithm}", package, "hash") from error
    return lambda: hashlib.new(algorithm, usedforsecurity=False)


def hash_memory(
    image: SaveImage,
    algorithm: str = "sha256",
    *,
    pages: bool = False,
    blocks: Sequence[str] | None = None,
    lost_as_zero: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[MemoryHash]:
    """Hash each block, then all memory.

    A block's hash is that of its content, as ``sha256sum`` has it.  The hash of the whole
    memory is taken over one line for each block, in the order of their names: its hash,
    two spaces, its length in decimal, a space, its name, a newline.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    algorithm : str
        One of `ALGORITHMS`.
    pages : bool
        Hash each page, too.
    blocks : sequence of str, optional
        Only these; then there is no hash of the whole.
    lost_as_zero : bool
        Take lost pages of a damaged image for zeros, rather than refuse it.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Yields
    ------
    MemoryHash
        The pages of a block before it, the whole memory at the end.

    Raises
    ------
    UnsupportedError
        If pages are lost.
    """
    if not lost_as_zero:
        refuse_lost(image, blocks)
    hasher = _Hasher(Memory(image, blocks, io=io, progress=progress), algorithm)
    return hasher.run(pages, whole=blocks is None)


def refuse_lost(image: SaveImage, blocks: Sequence[str] | None = None) -> None:
    """Refuse to hash an image of which pages are lost.

    Raises
    ------
    UnsupportedError
        With what is lost.
    """
    if image.rescue is None:
        return
    lost = {block.idstr: block.lost for block in image.rescue.report.blocks}
    lost = {name: lost[name] for name in blocks or lost if lost.get(name)}
    what = f"{sum(lost.values())} pages of {', '.join(map(repr, lost))}" if lost else ""
    if not what and blocks is None and image.rescue.report.unlisted:
        what = "whole blocks"
    if what:
        raise UnsupportedError(
            f"{what} are lost, so no hash is that of the guest's memory; --lost-as-zero hashes "
            "what there is, with zeros in the gaps",
            path=image.path,
        )


class _Hasher:
    """Goes through memory once, with zeros filled in."""

    def __init__(self, memory: Memory, algorithm: str) -> None:
        self._memory = memory
        self._size = memory.page_size
        self._algorithm = algorithm
        self._make = hash_factory(algorithm)

    def run(self, pages: bool, whole: bool) -> Iterator[MemoryHash]:
        done = []
        for found in self._blocks(pages):
            yield found
            if found.kind == "block":
                done.append(found)
        if whole:
            yield self._whole(done)

    def _whole(self, blocks: Iterable[MemoryHash]) -> MemoryHash:
        total, length = self._make(), 0
        for name, one in sorted(
            ((_name_bytes(one.block), one) for one in blocks), key=itemgetter(0)
        ):
            total.update(b"%b  %d %b\n" % (one.digest.encode(), one.length, name))
            length += one.length
        return MemoryHash("memory", "", 0, length, total.hexdigest(), self._algorithm)

    def _blocks(self, pages: bool) -> Iterator[MemoryHash]:
        def work(window: Window) -> tuple[Window, list[str]]:
            content = window.content
            places = range(0, len(content) if pages else 0, self._size)
            return window, [self._digest(content[at : at + self._size]) for at in places]

        results = self._memory.each(work)
        upcoming = next(results, None)
        for block, length in self._memory.lengths.items():
            state, at = self._make(), 0
            while upcoming is not None and upcoming[0].stretch.block == block:
                window, digests = upcoming
                start = window.stretch.start
                yield from self._zero_pages(block, at, start if pages else at)
                yield from self._pages(block, start, digests)
                _update_zeros(state, start - at)
                state.update(window.content)
                at = window.stretch.end
                upcoming = next(results, None)
            yield from self._zero_pages(block, at, length if pages else at)
            _update_zeros(state, length - at)
            yield MemoryHash("block", block, 0, length, state.hexdigest(), self._algorithm)

    def _zero_pages(self, block: str, start: int, end: int) -> Iterator[MemoryHash]:
        digest = self._digest(bytes(self._size))
        for at in range(start, end, self._size):
            yield MemoryHash("page", block, at, self._size, digest, self._algorithm)

    def _pages(self, block: str, start: int, digests: Iterable[str]) -> Iterator[MemoryHash]:
        for number, digest in enumerate(digests):
            at = start + number * self._size
            yield MemoryHash("page", block, at, self._size, digest, self._algorithm)

    def _digest(self, data: bytes | memoryview) -> str:
        state = self._make()
        state.update(data)
        return state.hexdigest()


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _update_zeros(state: Hash, count: int) -> None:
    while count > 0:
        step = min(count, len(_ZEROS))
        state.update(memoryview(_ZEROS)[:step])
        count -= step


# --- manifests ---


_HEADING = re.compile(r"# savefmt hash 1 ([a-z0-9]+)( with pages)?")
_LINE = re.compile(r"([0-9a-f]{16,128})  (memory|block:.+|page:.+@0x[0-9a-f]+)")


def manifest_lines(
    algorithm: str, hashes: Iterable[MemoryHash], *, pages: bool = False
) -> Iterator[str]:
    """Write hashes down as ``sha256sum`` does, under a heading that says how they were made."""
    yield f"# savefmt hash 1 {algorithm}{' with pages' if pages else ''}"
    for one in hashes:
        yield f"{one.digest}  {one.label}"


class Manifest:
    """Hashes that were written down; read as they are needed.

    Parameters
    ----------
    lines : iterable of str
        What `manifest_lines` wrote.

    Attributes
    ----------
    algorithm : str
        How the hashes were made.
    pages : bool
        Whether there are those of pages.
    count : int
        Hashes read so far.

    Raises
    ------
    ValueError
        If it is something else; while hashes are taken, too.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        match = _HEADING.fullmatch(next(self._lines, "").rstrip("\r\n"))
        if match is None or match[1] not in ALGORITHMS:
            raise ValueError("the first line is not '# savefmt hash 1' and an algorithm")
        self.algorithm = match[1]
        self.pages = match[2] is not None
        self.count = 0
        self._passed: dict[str, str] = {}

    def take(self, label: str) -> str | None:
        """Return the hash of this name, None if there is no such hash.

        Names are asked for in the order of an image, which is that of the manifest if
        the image lists its blocks as the first one did.  Those passed over are kept.
        """
        if label in self._passed:
            return self._passed.pop(label)
        for digest, name in self._entries():
            if name == label:
                return digest
            self._passed[name] = digest
        return None

    def rest(self) -> Iterator[str]:
        """Yield the names that nobody asked for."""
        yield from self._passed
        yield from (name for _, name in self._entries())

    def _entries(self) -> Iterator[tuple[str, str]]:
        for line in self._lines:
            match = _LINE.fullmatch(line.rstrip("\r\n"))
            if match is None:
                raise ValueError(f"line {self.count + 2} is not a hash and what it is of")
            self.count += 1
            yield match[1], match[2]


def check_manifest(
    image: SaveImage,
    manifest: Manifest,
    *,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[tuple[str, bool | None]]:
    """Hash an image's memory and compare.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    manifest : Manifest
        What it should hold.
    io, progress
        As for `hash_memory`.

    Yields
    ------
    (str, bool or None)
        Each name in the manifest, and whether its hash holds; None where the image has
        nothing of that name.

    Raises
    ------
    ValueError
        If it is not a manifest.
    """
    for one in hash_memory(
        image, manifest.algorithm, pages=manifest.pages, io=io, progress=progress
    ):
        expected = manifest.take(one.label)
        if expected is not None:
            yield one.label, expected == one.digest
    yield from ((label, None) for label in manifest.rest())
    if not manifest.count:
        raise ValueError("there is no hash in it")
