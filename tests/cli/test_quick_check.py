"""A quick check calls an image sound only where it saw the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.fakes import Run
from golden import load

COMPRESSED = ("libvirt-zstd", "libvirt-gzip", "libvirt-bzip2", "libvirt-xz", "libvirt-lzop")


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_cut_compressed_image_is_not_called_sound(name: str, tmp_path: Path, run: Run) -> None:
    path = load.unpack(name, tmp_path)
    whole = path.read_bytes()

    quick = run("check", str(path))
    assert "nothing wrong found, the end not seen, quick check" in quick.out
    assert quick.code == 0
    path.write_bytes(whole[:-100])
    assert "sound" not in run("check", str(path)).out
    assert run("check", "--full", str(path)).code == 2
    path.write_bytes(whole)
    assert ": sound, full check" in run("check", "--full", str(path)).out


def test_an_image_whose_end_was_seen_is(tmp_path: Path, run: Run) -> None:
    path = load.unpack("libvirt-raw", tmp_path)

    assert ": sound, quick check" in run("check", str(path)).out
