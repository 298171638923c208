"""What follows the RAM of a stream that can be read only once."""

from __future__ import annotations

import tempfile

import pytest

from savefmt.format.cursor import ChunkCursor
from savefmt.reading import tail

OFFSET = 1000
PIECES = [bytes([number]) * 300 for number in range(1, 8)]


@pytest.mark.parametrize("limit", [32 << 20, 1000], ids=["in memory", "on disk"])
def test_a_tail_is_kept_whole(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def temporary() -> object:
        files.append(real())
        return files[-1]

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    monkeypatch.setattr(tail, "_MEMORY_LIMIT", limit)
    whole = b"begin" + b"".join(PIECES)

    cursor = ChunkCursor(iter(PIECES), OFFSET + 5)
    with tail.spool_tail(cursor, OFFSET, b"begin", True, ()) as kept:
        assert (kept.start, kept.end) == (OFFSET, OFFSET + len(whole))
        assert kept.pread(len(whole), OFFSET) == whole
        assert kept.pread(10, OFFSET + 300) == whole[300:310]
        assert len(files) == (limit == 1000)

    assert all(file.closed for file in files)
