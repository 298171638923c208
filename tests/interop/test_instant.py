"""A Linux guest runs on the pages of its image: alone, as clones, stale pages and all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop import linux
from interop.live import LiveGuest
from interop.qemu import wait_for
from interop.test_qemu_loads import linux_arguments
from savefmt import instant
from savefmt.image import SaveImage
from savefmt.instant.startcommand import backend

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]


class Saved:
    """A sparse image of the counting guest, saved while it ran."""

    def __init__(self, path: Path, console: str, hashes: dict[str, str]) -> None:
        self.path = path
        self.console = console
        self.hashes = hashes


@pytest.fixture(scope="module")
def saved(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """Save the guest live and slowly, so that pages come and go: some are stale in the end."""
    directory = tmp_path_factory.mktemp("instant")
    path = directory / "image"
    with LiveGuest(directory, linux_arguments(linux_guest)) as guest:
        guest.cont()
        guest.wait_console("tick 3\n")
        guest.migrate_to(f"file:{path}", {"mapped-ram": True})
        yield Saved(path, guest.console_text(), guest.block_hashes())
    shutil.rmtree(directory)


def mapping_arguments(linux_guest: Path, image: Path) -> list[str]:
    """Return QEMU's arguments for the guest, its memory mapped from the image."""
    arguments = linux_arguments(linux_guest)
    with SaveImage(image) as opened:
        (main,) = instant.mappable(opened)
        value = backend(main, os.fspath(image))
    at = arguments.index("-machine") + 1
    arguments[at] += f",memory-backend={main.idstr}"
    return ["-object", value, *arguments]


@pytest.fixture
def waiting(saved: Saved, linux_guest: Path, tmp_path: Path) -> Iterator[LiveGuest]:
    """A QEMU that has mapped the image and waits."""
    arguments = mapping_arguments(linux_guest, saved.path)
    with LiveGuest(tmp_path, arguments, incoming=True) as guest:
        yield guest


def test_it_counts_on_without_being_loaded(saved: Saved, waiting: LiveGuest) -> None:
    report = instant.restore_on_image(saved.path, qmp=waiting.socket, running=False)

    assert report.state == "paused"
    assert report.mapped_length == max(block.length for block in waiting.ram_blocks())
    assert report.notes == ()
    assert waiting.block_hashes()["pc.ram"] == saved.hashes["pc.ram"]
    waiting.cont()
    wait_for(lambda: linux.goes_on(saved.console, waiting.console_text()), "tick and report")
