"""Things of the C core in cycles of garbage: each ends once, and after all that uses it.

The collector runs the finalizers of all garbage before it breaks any cycle.  Each test runs
in a process of its own, whose allocator fills what is freed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builder import MIB, make_envelope, make_stream, page

PRELUDE = """
import gc, os, sys, threading
import savefmt
from savefmt.model import IOOptions
from savefmt.native.file import Appender, File
from savefmt.native.jobs import Emitter
from savefmt.native.pages import BlockPages, SumKey, Table
from savefmt.native.records import Scanner, Scatter

gc.disable()
image = sys.argv[1]
IO = IOOptions(threads=2, window=1 << 20, engine="psync")

def in_a_cycle(*things):
    ring = [*things]
    ring.append(ring)

def opened(path=image, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    try:
        return File(fd, path=path, write=flags != os.O_RDONLY)
    finally:
        os.close(fd)

def block():
    count = 1024
    return BlockPages(b"ram", count, 4096, 0, bytearray(b"\\xff" * (count // 8)))
"""
WORK = {
    "files": "in_a_cycle(opened())",
    "a generator that closes its image": """
def read():
    with savefmt.open(image) as opened, opened.stream() as stream:
        yield stream.read(1)
        yield stream.read(1)
    closed.append(True)
closed = []
reader = read()
next(reader)
in_a_cycle(reader)
del reader
""",
    "a ring and what it reads": """
pieces = Emitter(opened(), [block()], SumKey.fixed()).chunks(IO)
next(pieces)
in_a_cycle(pieces)
del pieces
""",
    "what writes behind": """
target = opened(image + ".out", os.O_RDWR | os.O_CREAT)
appender = Appender(target, 0, IO)
appender.write(bytes(1 << 22))
scanner = Scanner(4096, [(b"ram", 1 << 22)])
in_a_cycle(target, appender, scanner, Scatter(scanner, target, [block()], IO, key=None, path="x"))
del target, appender, scanner
""",
    "tables and maps": "in_a_cycle(Table(1 << 20).data(), opened().map(), Table(7))",
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("garbage") / "image"
    ram = b"".join(page(number) for number in range(4 * MIB // 4096))
    path.write_bytes(make_envelope() + make_stream(blocks={"pc.ram": ram}))
    return path


@pytest.mark.parametrize("name", WORK)
def test_a_cycle_of_garbage(name: str, image: Path) -> None:
    turns = f"for turn in range(20):\n{indented(WORK[name])}"
    ended = """
gc.collect()
threads = len(os.listdir("/proc/self/task"))
links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
left = [link for link in links if image in link]
assert (threads, left, gc.garbage) == (1, [], []), (threads, left, gc.garbage)
"""
    environment = {
        **os.environ,
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
        "MALLOC_PERTURB_": "165",
        "PYTHONMALLOC": "malloc",
    }
    script = f"{PRELUDE}\n{turns}\n{ended}"
    command = [sys.executable, "-X", "faulthandler", "-c", script, str(image)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
