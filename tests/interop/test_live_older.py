"""QEMU 7.2, which has no mapped-ram: what is refused, what falls back, what comes back."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.qemu import EMULATOR, OLDER, wait_for
from savefmt import qemu
from savefmt.compat.ask import read_capabilities
from savefmt.compat.policy import Missing, SaveRequest
from savefmt.model import Layout
from savefmt.qemu.hosted import ram_blocks
from savefmt.qmp import Monitor

MACHINE = "pc-q35-7.2"  # which both releases have

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("older_qemu")]


@contextmanager
def running(program: str | Path, directory: Path, *words: str) -> Iterator[str]:
    """Run a guest that never rests, or one that waits for it; yield its socket."""
    # Not in pytest's folder: the path of a socket must stay short.
    with tempfile.TemporaryDirectory(prefix="savefmt-qmp-") as folder:
        firmware, console = load.firmware("live", directory), Path(folder, "console")
        command = [
            *("setpriv", "--pdeathsig", "KILL", str(program), "-accel", "tcg", "-nodefaults"),
            *("-no-user-config", "-display", "none", "-machine", MACHINE, "-m", "8M"),
            *("-bios", str(firmware), "-serial", f"file:{console}"),
            *("-qmp", f"unix:{folder}/qmp,server=on,wait=off", *words),
        ]
        with subprocess.Popen(command) as process:
            try:
                wait_for(lambda: listening(f"{folder}/qmp"), "socket")
                if not words:
                    console.touch()
                    wait_for(lambda: b"R" in console.read_bytes(), "guest that has begun")
                yield f"{folder}/qmp"
            finally:
                process.kill()


def listening(path: str) -> bool:
    """Whether somebody listens on a socket: its name appears a moment before that."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return any(line.endswith(f" {path}") and line.split()[3] == "00010000" for line in lines)


def settings(socket: str) -> tuple[object, object]:
    with Monitor(socket) as monitor:
        return read_capabilities(monitor), monitor.execute("query-migrate-parameters")


def test_the_older_qemu(tmp_path: Path) -> None:
    images = {"plain": SaveRequest("upstream"), "zstd": SaveRequest("3", "zstd")}
    with running(OLDER, tmp_path) as socket:
        before = settings(socket)
        with Monitor(socket) as monitor:
            assert ram_blocks(monitor)["pc.ram"].used_length == 8 << 20
        for request in (SaveRequest("upstream", "sparse"), SaveRequest("3", parallel=2)):
            with pytest.raises(savefmt.ConversionError, match="came with 9.0"):
                strict = SaveRequest(
                    request.save_version,
                    request.format,
                    request.parallel,
                    missing=Missing.REQUIRE,
                )
                qemu.save(tmp_path / "refused", qmp=socket, request=strict)
        for name, request in images.items():
            report = qemu.save(tmp_path / name, qmp=socket, request=request)
            assert report.plan.layout is Layout.SEQUENTIAL
            assert report.state == "running"
        assert settings(socket) == before
    assert not (tmp_path / "refused").exists()
    for program in (OLDER, EMULATOR):
        for name in images:
            with running(program, tmp_path, "-incoming", "defer") as socket:
                before = settings(socket)
                assert qemu.restore(tmp_path / name, qmp=socket).state == "running"
                assert settings(socket) == before


def test_the_older_qemu_refuses_a_sparse_image(tmp_path: Path) -> None:
    with running(EMULATOR, tmp_path) as socket:
        qemu.save(tmp_path / "image", qmp=socket, request=SaveRequest("upstream"))
    with running(OLDER, tmp_path, "-incoming", "defer") as socket:
        with pytest.raises(savefmt.ConversionError, match="no mapped-ram, which came with 9.0"):
            qemu.restore(tmp_path / "image", qmp=socket)
        with Monitor(socket) as monitor:
            assert monitor.status == "inmigrate"
    savefmt.convert(tmp_path / "image", tmp_path / "raw", layout=Layout.SEQUENTIAL)
    with running(OLDER, tmp_path, "-incoming", "defer") as socket:
        assert qemu.restore(tmp_path / "raw", qmp=socket).state == "running"


def test_a_load_that_fails_ends_the_older_qemu(tmp_path: Path) -> None:
    """It knows no exit-on-error."""
    with running(OLDER, tmp_path) as socket:
        qemu.save(tmp_path / "image", qmp=socket, request=SaveRequest("2"))
    damaged = bytearray((tmp_path / "image").read_bytes())
    (tmp_path / "image").write_bytes(damaged[: len(damaged) // 2])
    with (
        running(OLDER, tmp_path, "-incoming", "defer") as socket,
        pytest.raises(savefmt.SavefmtError, match="QEMU has ended; the image is unharmed"),
    ):
        qemu.restore(tmp_path / "image", qmp=socket)
