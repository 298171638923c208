"""Small hostile images: time and memory go by the length of the file, not by what it claims."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import PAGE_SIZE, Record, make_stream, page, section_head
from oracle import compress

MIB = 1 << 20
SECONDS = 2.0
MEMORY = 150 * MIB

COMMANDS = ["info", "check", "map", "memmap", "devices"]


def claim(length: int, **options: object) -> bytes:
    """Return a stream with one page of RAM that claims to have more."""
    true = len(page(1)).to_bytes(8, "big")
    data = make_stream(blocks={"pc.ram": page(1)}, **options)
    return data.replace(b"\x06pc.ram" + true, b"\x06pc.ram" + length.to_bytes(8, "big"), 1).replace(
        (PAGE_SIZE | 4).to_bytes(8, "big"), (length | 4).to_bytes(8, "big"), 1
    )


def end_of(data: bytes) -> bytes:
    """Return a stream without its EOF mark."""
    assert data.endswith(b"\0")
    return data[:-1]


def sections(count: int) -> bytes:
    """Return that many empty sections."""
    return b"".join(
        section_head(4, 1000 + number, "x", number, 1) + struct.pack(">BI", 0x7E, 1000 + number)
        for number in range(count)
    )


def described(text: bytes) -> bytes:
    """Return a stream that this vmdescription follows."""
    return make_stream(description=False) + struct.pack(">BI", 6, len(text)) + text


def bomb(data: bytes) -> bytes:
    return compress("zstd", data)


def pages_of_zeros(count: int) -> bytes:
    """Return a stream with page records of zeros, which compress to nothing."""
    records = [Record("pc.ram", number, bytes(PAGE_SIZE)) for number in range(count)]
    return make_stream(blocks={"pc.ram": bytes(count * PAGE_SIZE)}, rounds=[records])


NESTED = b'{"devices":' + b"[" * 450_000 + b"]" * 450_000 + b"}"

IMAGES: dict[str, Callable[[], bytes]] = {
    "claims 16 TiB": lambda: claim(16 << 40),
    "claims 16 TiB, mapped-ram": lambda: claim(16 << 40, layout="mapped-ram", align=PAGE_SIZE),
    "claims 16 TiB, zstd": lambda: bomb(claim(16 << 40)),
    "bomb behind RAM": lambda: bomb(end_of(make_stream(description=False)) + bytes(400 * MIB)),
    "bomb behind the stream": lambda: bomb(make_stream() + bytes(400 * MIB)),
    "bomb in a device": lambda: bomb(
        end_of(make_stream(description=False))
        + section_head(4, 99, "bomb", 0, 1)
        + b"\1" * (400 * MIB)
    ),
    "bomb in RAM": lambda: bomb(pages_of_zeros(50_000)),
    "braces behind": lambda: make_stream(description=False) + b"{" * 900_000,
    "braces behind RAM": lambda: end_of(make_stream(description=False)) + b"{" * 900_000,
    "marks of descriptions": lambda: make_stream(description=False) + b"\6\0\0\0\1{" * 150_000,
    "nested description": lambda: described(NESTED),
    "long keys": lambda: described(b'{"devices":[' + b'{"name":"a"},' * 60_000 + b"{}]}"),
    "tiny sections": lambda: end_of(make_stream(description=False)) + sections(25_000) + b"\0",
    "tiny sections, cut": lambda: end_of(make_stream(description=False)) + sections(25_000),
}


MEASURED = """
import re, sys, time
from savefmt.cli.main import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
sys.stderr.write(f"\\n{time.process_time()} {peak}")
sys.exit(code)
"""
"""The peak of the process itself: `ru_maxrss` has that of who forked it."""


def run(command: str, image: Path) -> tuple[int, str, float, int]:
    """Run a command: exit code, what it said, CPU time, memory at most."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, command, str(image)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said, _, figures = result.stderr.rpartition("\n")
    seconds, peak = figures.split()
    return result.returncode, said, float(seconds), int(peak) * 1024


@pytest.mark.parametrize("name", IMAGES)
def test_small_images_take_little(name: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(IMAGES[name]())
    assert image.stat().st_size < MIB

    for command in COMMANDS:
        code, said, seconds, memory = run(command, image)
        assert code in (0, 1, 2, 3), said
        assert "Traceback" not in said
        assert seconds < SECONDS, command
        assert memory < MEMORY, command
