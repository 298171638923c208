"""A Linux guest that reads what fills its memory, with and without reading ahead of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from guests import (
    READING,
    bulk_length,
    guest_arguments,
    guest_folder,
    guest_image,
    mapping,
    obstacle,
)
from instant_case import BY_QEMU, GuestRow, by_qemu, restoring
from lab import MIB, Lab
from turns import Side, Turn

if TYPE_CHECKING:
    from interop.live import LiveGuest

Start = Callable[["LiveGuest", Path], "subprocess.Popen[bytes] | None"]
"""Lets a guest that waits run; returns what goes on meanwhile."""


def rows(guests: tuple[int, ...]) -> list[GuestRow]:
    """Return the rows for the smallest of some sizes."""
    ram = guests[0]
    work = f"{ram // MIB}M guest on its image, --warm, until it has read {bulk_length(ram) // MIB}M"
    return [
        GuestRow(
            key,
            work,
            against,
            partial(_sides, ram=ram, start=start),
            partial(obstacle, ram),
            "same",
        )
        for key, against, start in (
            ("warm", "the same without --warm", _instantly),
            ("warm-qemu", BY_QEMU, _by_qemu),
        )
    ]


def _sides(lab: Lab, *, ram: int, start: Start) -> tuple[Side, Side]:
    image = guest_image(lab, ram, READING)
    return (
        Side(lambda: _turn(lab, ram, image, _warmly), [image]),
        Side(lambda: _turn(lab, ram, image, start), [image]),
    )


def _turn(lab: Lab, ram: int, image: Path, start: Start) -> Turn:
    from interop.live import LiveGuest
    from interop.qemu import wait_for

    arguments = guest_arguments(lab, ram, READING)
    if start is not _by_qemu:
        arguments = mapping(arguments, image)
    with guest_folder(lab) as folder, LiveGuest(Path(folder), arguments, incoming=True) as guest:
        began = time.perf_counter()
        helper = start(guest, image)
        wait_for(lambda: "all read" in guest.console_text(), "reading", timeout=300, step=0.002)
        seconds = time.perf_counter() - began
        if helper is not None:
            helper.wait()
        return Turn(seconds)


def _instantly(guest: LiveGuest, image: Path) -> None:
    subprocess.run(restoring(guest, image, "--instant"), check=True)


def _warmly(guest: LiveGuest, image: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(restoring(guest, image, "--instant", "--warm"))


def _by_qemu(guest: LiveGuest, image: Path) -> None:
    by_qemu(guest, image)
