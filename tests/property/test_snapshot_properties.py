"""Disk images with snapshots: any layout is read, and any damage is an error of ours."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from qcow2disk import Disk

import savefmt
from savefmt import IOOptions, SavefmtError
from savefmt.reading.source import Source, open_file

STATE = b"QEVM" + bytes(range(256)) * 150 + b"}"

disks = st.builds(
    Disk,
    version=st.sampled_from([2, 3]),
    cluster_bits=st.integers(9, 16),
    disk_length=st.integers(0, 3 << 20).map(lambda sectors: sectors & ~511),
    packed=st.sampled_from(["", "deflate"]),
    shuffle=st.booleans(),
    extra=st.sampled_from([8, 16, 24]),
)
pieces = st.lists(
    st.one_of(st.binary(min_size=1, max_size=3000), st.integers(1, 20000).map(bytes)), max_size=6
)


def opened(folder: str, disk: bytes) -> bytes:
    path = Path(folder) / "disk"
    path.write_bytes(disk)
    with open_file(Source(path, "one"), IOOptions(engine="psync")) as file:
        return file.read(file.length, 0)


@given(disk=disks, parts=pieces)
def test_any_state_in_any_layout(disk: Disk, parts: list[bytes]) -> None:
    state = b"".join(parts) + b"}"
    with tempfile.TemporaryDirectory() as folder:
        assert opened(folder, disk.build({"other": b"x" * 5000, "one": state})) == state


@given(disk=disks, data=st.data())
def test_any_damage_is_an_error_or_harmless(disk: Disk, data: st.DataObject) -> None:
    content = bytearray(disk.build({"one": STATE}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk"
        path.write_bytes(content)
        with suppress(SavefmtError):
            savefmt.list_snapshots(path)
        with (
            suppress(SavefmtError),
            open_file(Source(path, "one"), IOOptions(engine="psync")) as file,
        ):
            file.read(min(file.length, 1 << 20), 0)
