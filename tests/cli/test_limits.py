"""Commands under a limit of the address space (`ulimit -v`)."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from builder import make_stream, page

GIB = 1 << 30
# Enough windows for eight threads, then a page here and a page there, for which long spans
# are made.
RAM = page(7) * (20 << 8) + b"".join(page(number) + bytes(63 * 4096) for number in range(128))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    for layout in ("sequential", "mapped-ram"):
        (folder / layout).write_bytes(make_stream(blocks={"pc.ram": RAM}, layout=layout))
    return folder


COMMANDS = [
    ["info", "mapped-ram"],
    ["check", "--full", "mapped-ram"],
    ["check", "--full", "sequential"],
    ["convert", "mapped-ram", "@target", "-O", "raw"],
    ["convert", "mapped-ram", "@target", "-O", "sparse", "--verify"],
    ["convert", "sequential", "@target", "-O", "sparse", "--verify"],
    ["convert", "mapped-ram", "@target", "-O", "zstd"],
    ["convert", "mapped-ram", "-", "-O", "gzip"],
    ["compare", "mapped-ram", "sequential"],
    ["hash", "mapped-ram"],
    ["hash", "sequential"],
    ["stats", "mapped-ram"],
    ["search", "mapped-ram", "--hex", "0000007f 0000007f", "--max-count", "3"],
    ["strings", "sequential"],
    ["export", "mapped-ram", "@target"],
    ["export", "sequential", "@target", "-f", "lime"],
    ["export", "mapped-ram", "@target", "-f", "blocks"],
]


@pytest.mark.parametrize("limit", [2.5, 1.0], ids="{}GiB".format)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_limited_address_space(
    words: list[str], limit: float, images: Path, tmp_path: Path
) -> None:
    takes_threads = words[0] != "info"
    command = [word if word != "@target" else str(tmp_path / "target") for word in words]
    result = subprocess.run(
        [sys.executable, "-m", "savefmt", *command, *(["-T", "8"] * takes_threads)],
        cwd=images,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_AS, (int(limit * GIB), int(limit * GIB))
        ),
        check=False,
    )

    assert result.returncode == 0, result.stderr.decode()
