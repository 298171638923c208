"""needs on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import fakeqemu
import pytest
from builder import make_envelope, make_stream
from cli.fakes import Run

from savefmt.compat.releases import Release
from savefmt.needs import listing

DOMAIN = """\
<domain type='qemu'><name>web\x1b[31m</name><devices>
<disk type='file' device='disk'><source file='{}'/><target dev='vda'/></disk></devices></domain>
"""


@pytest.fixture(autouse=True)
def own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed, there is libvirt 11.3."""
    monkeypatch.setattr(listing, "installed_libvirt", lambda: Release(11, 3))


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image of a guest with one disk."""
    xml = DOMAIN.format(tmp_path / "disk").replace("\x1b", "\u202e").encode()
    (tmp_path / "image").write_bytes(make_stream(prefix=make_envelope(xml=xml)))
    return str(tmp_path / "image")


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    """A QEMU that knows the machine."""
    return fakeqemu.write_program(tmp_path / "qemu-system-fake", fakeqemu.answers())


def test_what_is_missing_decides_the_exit_code(
    image: str, qemu: str, run: Run, tmp_path: Path
) -> None:
    done = run("needs", image, "--qemu-binary", qemu)
    assert done.code == 2
    assert f"missing  file          {tmp_path}/disk (disk vda)\n" in done.out
    assert "\u202e" not in done.out
    only = run("needs", image, "--qemu-binary", qemu, "--missing").out.splitlines()
    assert [line.split()[0] for line in only[:-1]] == ["missing"]

    (tmp_path / "disk").touch()
    done = run("needs", image, "--qemu-binary", qemu)
    assert done.code == 0
    assert ", 0 missing, " in done.out
    assert run("needs", image, "--qemu-binary", qemu, "-q").out == ""


def test_listing(image: str, run: Run, tmp_path: Path) -> None:
    done = run("needs", image, "--list")
    assert done.code == 0
    assert f"file          {tmp_path}/disk (disk vda)\n" in done.out
    assert "missing" not in done.out
    assert json.loads(run("needs", image, "--list", "-j").out)["needs"]["looked"] is False
    for option in ("--missing", "--qemu-binary=x"):
        assert run("needs", image, "--list", option).code == 64


def test_what_is_no_image(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no image\n" * 100)

    assert run("needs", str(tmp_path / "text")).code == 1
    assert run("needs", str(tmp_path / "absent")).code == 1
