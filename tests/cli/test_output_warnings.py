"""What fails after a file has its name: the command did its work, and says so."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from cli.fakes import Run
from golden.load import unpack


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no folder be synced."""
    fsync = os.fsync

    def fail_for_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_for_folders)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("libvirt-sparse", "map IMAGE --png OUT"),
        ("libvirt-raw", "read IMAGE 0 16 --physical --index OUT"),
        ("libvirt-sparse", "report IMAGE -o OUT --quick"),
        ("libvirt-sparse", "clone IMAGE OUT"),
        ("libvirt-sparse", "convert IMAGE OUT -O raw"),
        (
            "libvirt-raw",
            "bench FOLDER --fill --size 1M --repeat 1 --window 1M -T 1 --fio-job OUT",
        ),
    ],
)
def test_what_fails_after_the_name_is_given_is_told(
    image: str, words: str, run: Run, tmp_path: Path
) -> None:
    places = {
        "IMAGE": str(unpack(image, tmp_path)),
        "OUT": str(tmp_path / "out"),
        "FOLDER": str(tmp_path),
    }
    outcome = run(*(places.get(word, word) for word in words.split()))

    assert outcome.code == 0
    told = outcome.out if words.startswith("convert") else outcome.err
    assert "whether its name is on the disk is unknown: Input/output error" in told
    assert (tmp_path / "out").exists()
