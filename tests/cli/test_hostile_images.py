"""Small files that claim much: looking at them takes 2 seconds and 150 MiB at most."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import (
    PAGE_SIZE,
    counted,
    make_envelope,
    make_stream,
    page,
    section_head,
    simple_device,
)

from savefmt.codec.registry import find_codec

LONGEST = (1 << 20) + 4096
SECONDS = 2.0
MOST_MEMORY = 150 << 20
COMMANDS = (
    ("info",),
    ("info", "--pages"),
    ("check",),
    ("check", "--full"),
    ("map",),
    ("memmap",),
    ("devices",),
    ("regs",),
    ("stats",),
)
# A process in between: the peak of a child begins with what its parent holds, and the test
# runner holds a lot.
STARTER = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""
LOOKS = """
import gc, io, json, resource, sys, time
from contextlib import redirect_stderr, redirect_stdout
from savefmt.cli.main import main
seen = []
for words in json.loads(sys.argv[2]):
    began = time.process_time()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as complaint:
        code = main([*words, sys.argv[1]])
    seen.append((int(code), time.process_time() - began, complaint.getvalue()))
    gc.collect()  # as if each had a process of its own
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, seen]))
"""
SMALL = {"pc.ram": page(0) + bytes(PAGE_SIZE)}
DESCRIPTION = b"\x06"


def pack(codec: str, plain: bytes, repeat: int = 1) -> bytes:
    """Compress one member, which may stand there several times."""
    parts: list[bytes] = []
    writer = find_codec(codec).open_writer(lambda data: parts.append(bytes(data)), threads=1)
    writer.write(plain)
    writer.close()
    return b"".join(parts) * repeat


def described(document: object) -> bytes:
    """Return a stream whose description is this document."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    stream = make_stream(blocks=SMALL, description=False)
    return stream + DESCRIPTION + struct.pack(">I", len(text)) + text


def block_list(names: list[bytes], length: int) -> bytes:
    """Return a stream that ends behind its list of RAM blocks."""
    entries = b"".join(bytes([len(name)]) + name + struct.pack(">Q", length) for name in names)
    flags = len(names) * length | 4
    head = b"QEVM\0\0\0\3" + section_head(1, 2, "ram", 0, 4)
    return head + struct.pack(">Q", flags) + entries + struct.pack(">Q", 0x10)


def nested(depth: int, width: int) -> dict[str, object]:
    """Return structures within structures."""
    entry: dict[str, object] = {"name": "a", "type": "uint8", "size": 1}
    for _ in range(depth):
        fields = [{**entry, "array_len": width}] if width else [entry]
        entry = {
            "name": "s",
            "type": "struct",
            "size": 1,
            "struct": {"vmsd_name": "x", "version": 1, "fields": fields},
        }
    return {
        "page_size": PAGE_SIZE,
        "devices": [
            {"name": "timer", "instance_id": 0, "vmsd_name": "t", "version": 2, "fields": [entry]}
        ],
    }


def sections(count: int, payload: bytes, description: bool) -> bytes:
    devices = tuple(simple_device(f"d{number}", payload) for number in range(count))
    return make_stream(blocks=SMALL, devices=devices, description=description)


def xml(text: bytes) -> bytes:
    return make_envelope(xml=text) + make_stream(blocks=SMALL)


RAW = make_stream(blocks=SMALL)
ZEROS = bytes(300 << 20)
IMAGES: dict[str, Callable[[], bytes]] = {
    "braces at the end": lambda: RAW + b"{" * 900_000,
    "descriptions at the end": lambda: RAW + (DESCRIPTION + b"\0\0\0\2{}") * 120_000,
    "half of a description": lambda: described(b'{"devices": [' + b"{" * 900_000),
    "deep JSON": lambda: described(b"[" * 900_000 + b"]" * 10),
    "long numbers": lambda: described(b'{"page_size": ' + b"9" * 900_000 + b"}"),
    "sixteen tebibytes": lambda: block_list([b"pc.ram"], 16 << 40),
    "many tebibytes": lambda: block_list([b"b%d" % n for n in range(256)], 1 << 36),
    "many blocks": lambda: block_list([b"block%d" % n for n in range(50_000)], PAGE_SIZE),
    "one name for all blocks": lambda: block_list([b"pc.ram"] * 50_000, PAGE_SIZE),
    "a bomb for a stream": lambda: make_envelope(format=5) + pack("zstd", RAW + ZEROS),
    "a bomb behind RAM": lambda: make_envelope(format=5) + pack("zstd", RAW[:-2000] + ZEROS),
    "members of zstd": lambda: make_envelope(format=5) + pack("zstd", ZEROS[: 1 << 20], 9000),
    "a bomb of xz": lambda: make_envelope(format=3) + lzma.compress(RAW + ZEROS, preset=1),
    "a bomb of gzip": lambda: make_envelope(format=1) + gzip.compress(RAW + ZEROS[: 200 << 20], 6),
    "a bomb of bzip2": lambda: make_envelope(format=2) + bz2.compress(RAW + ZEROS[: 64 << 20], 1),
    "a bomb around it all": lambda: gzip.compress(make_envelope() + RAW + ZEROS[: 200 << 20], 6),
    "a long name": lambda: xml(b"<domain><name>" + b"x" * 1_000_000 + b"</name></domain>"),
    "deep XML": lambda: xml(b"<domain>" + b"<a>" * 200_000),
    "wide XML": lambda: xml(b"<domain>" + b"<a/>" * 200_000 + b"</domain>"),
    "many attributes": lambda: xml(
        b"<domain " + b" ".join(b"a%d='1'" % n for n in range(80_000)) + b"/>"
    ),
    "many sections": lambda: sections(12_000, b"x" * 8, description=False),
    "many described sections": lambda: sections(5_000, b"x" * 8, description=True),
    "one long section": lambda: sections(1, b"\x04\x01ab" * 200_000, description=False),
    "a tail of section heads": lambda: (
        make_stream(blocks=SMALL, devices=(), description=False)[:-1]
        + section_head(4, 77, "timer", 0, 1) * 30_000
    ),
    "structures of structures": lambda: described(nested(150, 0)),
    "arrays of arrays": lambda: described(nested(12, 1000)),
    "a bitmap for nothing": lambda: make_stream(
        layout="mapped-ram", blocks={"pc.ram": page(0) * 200}, align=PAGE_SIZE
    )[: 20 * PAGE_SIZE],
    "device state alone": lambda: (
        b"QEVM\0\0\0\3" + section_head(4, 10, "cpu", 0, 1) + bytes(8) + b"\x7e\0\0\0\x0a\0"
    ),
    "names of records": lambda: make_stream(blocks=SMALL)[:200] + counted("x" * 255) * 3000,
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_look_costs_little(name: str, tmp_path: Path) -> None:
    data = IMAGES[name]()
    assert len(data) <= LONGEST
    (tmp_path / "image").write_bytes(data)

    peak, seen = looks(tmp_path / "image")

    for words, (code, seconds, complaint) in zip(COMMANDS, seen, strict=True):
        assert code in (0, 1, 2, 3, 63), (words, complaint)
        assert seconds < SECONDS, words
    assert peak < MOST_MEMORY


def looks(image: Path) -> tuple[int, list[tuple[int, float, str]]]:
    """Return the most memory that all commands take, and each one's code, seconds and words."""
    done = subprocess.run(
        [sys.executable, "-c", STARTER, LOOKS, str(image), json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, seen = json.loads(done.stdout)
    return peak, seen


def test_the_bounds_are_measured(tmp_path: Path) -> None:
    """An honest image takes far less than the bounds, and the peak is not that of this process."""
    hold = bytearray(MOST_MEMORY)
    hold[::4096] = b"x" * (len(hold) // 4096)
    (tmp_path / "image").write_bytes(RAW)

    peak, seen = looks(tmp_path / "image")

    assert 10 << 20 < peak < MOST_MEMORY // 2
    assert all(0 < seconds < SECONDS / 4 for _, seconds, _ in seen)
