"""Compare and hash large files full of holes without reading the holes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 20


def extents(path: Path) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is not a hole."""
    with path.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end


def first_difference(left: Path, right: Path) -> int | None:
    """Return where two files of one length differ, None if they do not."""
    assert left.stat().st_size == right.stat().st_size
    with left.open("rb") as one, right.open("rb") as other:
        for start, end in (*extents(left), *extents(right)):
            for at in range(start, end, _PIECE):
                count = min(_PIECE, end - at)
                ours, theirs = (
                    os.pread(one.fileno(), count, at),
                    os.pread(other.fileno(), count, at),
                )
                if ours != theirs:
                    return at + next(i for i in range(count) if ours[i] != theirs[i])
    return None


def sha256(path: Path) -> str:
    """Hash a file."""
    digest, zeros, done = hashlib.sha256(), bytes(_PIECE), 0

    def skip(end: int) -> None:
        for at in range(done, end, _PIECE):
            digest.update(memoryview(zeros)[: min(_PIECE, end - at)])

    with path.open("rb") as file:
        for start, end in extents(path):
            skip(start)
            file.seek(start)
            digest.update(file.read(end - start))
            done = end
        skip(path.stat().st_size)
    return digest.hexdigest()
