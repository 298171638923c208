"""Guests in the internal snapshots of qcow2 disk images."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builder import DEFAULT_BLOCKS, make_stream
from oracle import compress
from qcow2disk import COMPRESSED, Disk, l1_of_first, table_offset, with_word, words

import savefmt
from savefmt import (
    ConversionError,
    CorruptError,
    NotASaveImageError,
    SavefmtError,
    Source,
    TruncatedError,
    UnsupportedError,
)
from savefmt.edit import set_xml

STREAM = make_stream()
OTHER = make_stream(blocks={"pc.ram": b"another" * 4096 + bytes(4096 * 8 - 7 * 4096)})
MAPPED = make_stream(layout="mapped-ram")

DISKS = {
    "v3": Disk(),
    "v2": Disk(version=2),
    "v2 of old": Disk(version=2, extra=0),
    "small clusters": Disk(cluster_bits=9),
    "large clusters": Disk(cluster_bits=21),
    "shuffled": Disk(shuffle=True, cluster_bits=9),
    "extended": Disk(extended=True, cluster_bits=14, shuffle=True),
    "compressed": Disk(packed="deflate"),
    "compressed zstd": Disk(packed="zstd"),
    "compressed extended": Disk(packed="deflate", extended=True, cluster_bits=14),
    "odd disk": Disk(disk_length=(5 << 20) + 512),
}


def put(folder: Path, disk: bytes) -> Path:
    path = folder / "disk.qcow2"
    path.write_bytes(disk)
    return path


def state(path: Path, name: str = "one") -> bytes:
    with savefmt.open(path, snapshot=name) as image:
        return image.file.read(image.length, 0)


def hand_over(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "savefmt", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stream", [STREAM, MAPPED], ids=["sequential", "mapped-ram"])
@pytest.mark.parametrize("kind", DISKS)
def test_a_state_is_read_as_it_was_written(kind: str, stream: bytes, tmp_path: Path) -> None:
    path = put(tmp_path, DISKS[kind].build({"zero": None, "one": stream, "two": OTHER}))

    # A mapped-ram one reaches to the end of its last cluster, should that be compressed.
    assert state(path).rstrip(b"\0") == stream
    assert state(path, "two") == OTHER
    with savefmt.open(path, snapshot="one") as image:
        for name, content in DEFAULT_BLOCKS.items():
            assert image.memory.read(name, 0, len(content)) == content
            assert image.memory.view(name, 0, len(content)) == content
    assert savefmt.check(Source(path, "one"), level=savefmt.CheckLevel.FULL).ok


@pytest.mark.parametrize("kind", ["v3", "compressed", "extended"])
@pytest.mark.parametrize("stream", [STREAM, MAPPED], ids=["sequential", "mapped-ram"])
def test_taken_out_it_is_the_same_guest(kind: str, stream: bytes, tmp_path: Path) -> None:
    disk = DISKS[kind].build({"one": stream})
    path = put(tmp_path, disk)
    plain = tmp_path / "plain"
    plain.write_bytes(stream)
    savefmt.convert(f"{path}:one", tmp_path / "taken", verify=True)
    with savefmt.open(plain) as expected, savefmt.open(tmp_path / "taken") as taken:
        assert taken.memory.digest() == expected.memory.digest()

    savefmt.convert(f"{path}:1", tmp_path / "sparse", layout=savefmt.Layout.MAPPED_RAM)
    savefmt.convert(Source(path, "one"), tmp_path / "packed", codec="zstd")
    assert savefmt.compare(tmp_path / "sparse", tmp_path / "packed").same
    assert path.read_bytes() == disk


def test_the_length_of_a_mapped_state_is_told_without_its_pages(tmp_path: Path) -> None:
    """As QEMU 10.2 to 11.1 tell it."""
    disk = Disk().build({"one": MAPPED, "two": STREAM})
    at = table_offset(disk) + 40
    told = with_word(disk, at, 5000)
    path = put(tmp_path, told)

    assert state(path) == MAPPED
    assert [one.complete for one in savefmt.list_snapshots(path)] == [True, True]
    assert savefmt.check(f"{path}:one", level=savefmt.CheckLevel.FULL).findings == ()
    assert state(path, "two") == STREAM


def test_all_ways_to_name_one(tmp_path: Path) -> None:
    path = put(tmp_path, Disk().build({"one": STREAM, "a:b": OTHER, "1": OTHER}))

    for source in (f"{path}:one", Source(path, "one"), f"{path}:2", Source(path, "a:b")):
        with savefmt.open(source) as image:
            assert image.memory is not None
    with savefmt.open(f"{path}:a:b") as image:
        assert image.file.read(len(OTHER), 0) == OTHER
    # A name beats an ID, and a file of that name beats both.
    assert state(path, "1") == OTHER
    (tmp_path / "disk.qcow2:one").write_bytes(OTHER)
    with savefmt.open(f"{path}:one") as image:
        assert image.length == len(OTHER)


def test_listed_with_what_is_known(tmp_path: Path) -> None:
    cut = STREAM[:-100] + b"\1" * 100
    disk = Disk().build({"disk only": None, "one": STREAM, "cut": cut, "no": b"x" * 9000})
    found = savefmt.list_snapshots(put(tmp_path, disk))

    assert [one.name for one in found] == ["disk only", "one", "cut", "no"]
    assert [one.complete for one in found] == [None, True, False, False]
    assert [one.state_length for one in found] == [0, len(STREAM), len(cut), 9000]
    assert (found[1].identity, found[1].clock) == ("2", 2 * 10**9 + 17)
    assert found[1].date == 1_700_000_002.5


def test_info_lists_or_describes(tmp_path: Path) -> None:
    path = put(tmp_path, Disk().build({"one": STREAM, "\x1b[31m": STREAM, "none": None}))
    listed = hand_over("info", path)
    assert listed.returncode == 0
    assert "2 with a guest, 1 of the disk alone" in listed.stdout
    assert "one: ID 1" in listed.stdout
    assert "\x1b" not in listed.stdout
    (disk,) = json.loads(hand_over("info", "-j", path).stdout)["images"]
    assert [one["name"] for one in disk["snapshots"]] == ["one", "\x1b[31m", "none"]

    shown = hand_over("info", "--snapshot", "one", path)
    assert "snapshot:      one: ID 1" in shown.stdout
    assert f"{path}:one" in shown.stdout
    (image,) = json.loads(hand_over("info", "-j", f"{path}:one").stdout)["images"]
    assert image["snapshot"]["name"] == "one"
    assert image["logical_length"] == len(STREAM)
    assert image["saved"] == 1_700_000_001.5


def test_each_command_takes_one(tmp_path: Path) -> None:
    path = put(tmp_path, Disk().build({"one": MAPPED, "two": OTHER}))
    named = ("--snapshot", "one", path)
    for words_ in (
        ("check", *named),
        ("hash", *named),
        ("map", *named),
        ("stats", *named),
        ("strings", *named),
        ("devices", *named),
        ("compat", *named),
        ("compare", f"{path}:one", f"{path}:one"),
        ("convert", *named, "-O", "null"),
        ("read", *named, "--block", "pc.ram", "0", "16"),
    ):
        done = hand_over(*words_)
        assert done.returncode in (0, 3), (words_, done.stderr)
    missing = hand_over("hash", path)
    assert missing.returncode == 1
    assert "'one', 'two'" in missing.stderr
    assert hand_over("hash", "--snapshot", "one", "--offset", "1", path).returncode == 64


def test_an_index_of_one_is_not_taken_for_another(tmp_path: Path) -> None:
    """States of one length that begin and end alike."""
    left, right = bytearray(STREAM), bytearray(STREAM)
    disk = Disk().build({"one": bytes(left), "two": bytes(right)})
    path = put(tmp_path, disk)
    for name in ("one", "two"):
        with savefmt.open(path, snapshot=name, index=tmp_path / "index") as image:
            image.memory.read("pc.ram", 0, 4096)
        kept = (tmp_path / "index").read_bytes()
    with savefmt.open(path, snapshot="one", index=tmp_path / "index") as image:
        image.memory.read("pc.ram", 0, 4096)
    assert (tmp_path / "index").read_bytes() != kept


def test_a_disk_is_never_written(tmp_path: Path) -> None:
    disk = Disk().build({"one": make_stream()})
    path = put(tmp_path, disk)
    with pytest.raises(SavefmtError):
        savefmt.convert(f"{path}:one", path, overwrite=True)
    with pytest.raises(SavefmtError):
        savefmt.convert(f"{path}:one", path, save_version=1, overwrite=True)
    with pytest.raises(SavefmtError):
        set_xml(f"{path}:one", None, running=True)
    assert path.read_bytes() == disk


# --- what cannot be opened ---


def refused(folder: Path, disk: bytes, kind: type[SavefmtError], what: str) -> None:
    path = put(folder, disk)
    with pytest.raises(kind, match=what) as caught:
        state(path)
    assert str(path) in str(caught.value)


def test_what_is_no_snapshot_is_named(tmp_path: Path) -> None:
    disk = Disk().build({"none": None, "twin": STREAM, "more": STREAM})
    twins = disk.replace(b"more", b"twin")
    refused(tmp_path, disk, NotASaveImageError, "no snapshot 'one'; there are 'twin', 'more'")
    for name, what in (("none", "disk alone"), ("twin", "by its ID: 2, 3")):
        with pytest.raises(NotASaveImageError, match=what):
            state(put(tmp_path, twins), name)
    with pytest.raises(NotASaveImageError, match="not a qcow2 disk image"):
        state(put(tmp_path, STREAM))
    with pytest.raises(NotASaveImageError, match="qcow2. without internal snapshots"):
        savefmt.open(put(tmp_path, Disk().build({})))
    with pytest.raises(NotASaveImageError, match="internal snapshots of the disk alone"):
        savefmt.open(put(tmp_path, Disk().build({"none": None})))
    with pytest.raises(ValueError, match="no offset"):
        Source("disk", "one", 5)


@pytest.mark.parametrize(
    ("disk", "what"),
    [
        (Disk(crypt=2), "encrypted"),
        (Disk(incompatible=4), "another file"),
        (Disk(incompatible=32), "does not know"),
    ],
    ids=["encrypted", "external", "unknown"],
)
def test_what_is_beyond_this_release(disk: Disk, what: str, tmp_path: Path) -> None:
    content = disk.build({"one": STREAM})

    refused(tmp_path, content, UnsupportedError, what)
    assert [one.complete for one in savefmt.list_snapshots(put(tmp_path, content))] == [None]


def test_hostile_headers(tmp_path: Path) -> None:
    disk = Disk().build({"one": STREAM})
    table = table_offset(disk)
    _, count = l1_of_first(disk)
    refused(tmp_path, with_word(disk, 20, 8, 4), CorruptError, "clusters of 2")
    refused(tmp_path, with_word(disk, 20, 22, 4), CorruptError, "clusters of 2")
    refused(tmp_path, with_word(disk, 20, 0xFFFFFFFF, 4), CorruptError, "clusters of 2")
    refused(tmp_path, with_word(disk, 60, 65537, 4), CorruptError, "65537 snapshots")
    refused(tmp_path, with_word(disk, 60, 65536, 4), TruncatedError, "snapshot table")
    refused(tmp_path, with_word(disk, 64, len(disk) - 8), TruncatedError, "snapshot table")
    refused(tmp_path, with_word(disk, 64, (1 << 64) - 1), TruncatedError, "snapshot table")
    refused(tmp_path, with_word(disk, table + 36, 1025, 4), CorruptError, "extra data")
    refused(tmp_path, with_word(disk, table, 1 << 63), TruncatedError, "not in the file")
    refused(tmp_path, with_word(disk, table, len(disk) - 8), TruncatedError, "not in the file")
    refused(tmp_path, with_word(disk, table + 8, count - 1, 4), CorruptError, "no room")
    refused(tmp_path, with_word(disk, table + 8, 0xFFFFFFFF, 4), CorruptError, "no room")
    refused(tmp_path, with_word(disk, table + 40, (1 << 64) - 1), CorruptError, "no room")
    refused(tmp_path, with_word(disk, table + 48, (1 << 64) - 1), CorruptError, "no room")
    refused(tmp_path, with_word(disk, 4, 4, 4), UnsupportedError, "qcow version 4")


def test_hostile_tables(tmp_path: Path) -> None:
    disk = Disk().build({"one": MAPPED})
    l1, count = l1_of_first(disk)
    first = count - next(i for i, word in enumerate(reversed(words(disk, l1, count))) if not word)
    entries = [word & ~(1 << 63) for word in words(disk, l1, count)]
    at = l1 + 8 * first
    l2 = entries[first]
    refused(tmp_path, with_word(disk, at, len(disk) & ~4095), TruncatedError, "not in the file")
    refused(tmp_path, with_word(disk, at, l2 + 512), CorruptError, "damaged")
    full = next(i for i, word in enumerate(words(disk, l2, 512)) if word)
    one = words(disk, l2, 512)[full]
    refused(tmp_path, with_word(disk, l2 + 8 * full, 1 << 40), TruncatedError, "not all there")
    refused(tmp_path, with_word(disk, l2 + 8 * full, one + 512), CorruptError, "boundary")
    other = next(i for i, word in enumerate(words(disk, l2, 512)) if word and i != full)
    refused(tmp_path, with_word(disk, l2 + 8 * other, one), CorruptError, "same place twice")


def test_a_table_that_is_used_twice(tmp_path: Path) -> None:
    disk = Disk(cluster_bits=9).build({"one": MAPPED})
    l1, count = l1_of_first(disk)
    used = [i for i, word in enumerate(words(disk, l1, count)) if word]
    twice = with_word(disk, l1 + 8 * used[1], words(disk, l1, count)[used[0]])

    refused(tmp_path, twice, CorruptError, "same place twice")


def test_a_bomb_of_compressed_clusters_is_refused(tmp_path: Path) -> None:
    """Every entry of a table names one small cluster that unpacks to 2 MiB."""
    disk = Disk(packed="deflate", cluster_bits=21, disk_length=0)
    content = disk.build({"one": b"\1" * (3 << 21)})
    l1, count = l1_of_first(content)
    l2 = words(content, l1, count)[0] & ~(1 << 63)
    small = words(content, l2, 1)[0]
    assert small & COMPRESSED
    entries = (2 << 20) // 8
    bomb = content[:l2] + small.to_bytes(8, "big") * entries + content[l2 + 8 * entries :]
    state_length = entries << 21
    table = table_offset(bomb)

    refused(tmp_path, with_word(bomb, table + 40, state_length), CorruptError, "same place twice")


def test_many_snapshots_on_one_table_cost_little(tmp_path: Path) -> None:
    """65,536 entries, each of which leads to all of the file's tables."""
    one = Disk(cluster_bits=16, disk_length=0).build({"one": b"QEVM" + bytes(1 << 26) + b"}"})
    table = table_offset(one)
    entry = one[table:].ljust(72, b"\0")
    disk = with_word(one[:table] + entry * 65536, 60, 65536, 4)
    began = time.process_time()
    found = savefmt.list_snapshots(put(tmp_path, disk))

    assert time.process_time() - began < 20
    assert len(found) == 65536
    assert found[0].complete
    assert found[-1].complete is None


@pytest.mark.parametrize("packed", ["deflate", "zstd"])
def test_damaged_compressed_clusters(packed: str, tmp_path: Path) -> None:
    disk = Disk(packed=packed).build({"one": STREAM})
    needle = b"\xdd" * 13
    at = disk.index(needle) + len(needle)
    for damage in (b"\xff" * 40, bytes(40)):
        path = put(tmp_path, disk[:at] + damage + disk[at + 40 :])
        with pytest.raises(SavefmtError):
            state(path)


def test_a_cut_disk_is_told(tmp_path: Path) -> None:
    disk = Disk().build({"one": STREAM})
    for keep in range(0, len(disk), 999):
        with pytest.raises(SavefmtError):
            state(put(tmp_path, disk[:keep]))


def test_a_compressed_disk_image_is_no_image(tmp_path: Path) -> None:
    path = put(tmp_path, compress("gzip", Disk().build({"one": STREAM})))

    with pytest.raises(NotASaveImageError, match="qcow2. with internal snapshots .1.; make it"):
        savefmt.open(path)


def test_a_part_is_not_changed_in_place(tmp_path: Path) -> None:
    path = put(tmp_path, Disk().build({"one": STREAM}))

    with pytest.raises(ConversionError):
        savefmt.convert(Source(path, "one"), path)
