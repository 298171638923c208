"""What people run now: the libvirt and the QEMU of current distributions."""

from __future__ import annotations

from savefmt.compat.releases import PROGRAMS, Reader, Release
from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """A distribution.

    Attributes
    ----------
    name : str
        With its release.
    libvirt, qemu : Release
        What it ships.
    source : str
        Packages that were seen in it.
    """

    name: str
    libvirt: Release
    qemu: Release
    source: str


SYSTEMS: tuple[System, ...] = (
    System("Ubuntu 22.04", Release(8, 0), Release(6, 2), "8.0.0-1ubuntu7, 1:6.2+dfsg-2ubuntu6"),
    System("Debian 12", Release(9, 0), Release(7, 2), "9.0.0-4+deb12u2, 1:7.2+dfsg-7+deb12u18"),
    System("Ubuntu 24.04", Release(10, 0), Release(8, 2), "10.0.0-2ubuntu8, 1:8.2.2+ds-0ubuntu1"),
    System("Debian 13", Release(11, 3), Release(10, 0), "11.3.0-3+deb13u3, 1:10.0.11+ds-0+deb13u1"),
    System("RHEL 10.1", Release(11, 5), Release(10, 0), "11.5.0-4.2.el10_1, 10.0.0-14.el10_1"),
    System("Ubuntu 26.04", Release(12, 0), Release(10, 2), "12.0.0-1ubuntu5, QEMU 10.2.1"),
)
"""Current distributions, by age of what they ship."""


def current() -> tuple[Reader, ...]:
    """Return what they ship, each release once, the libvirts first."""
    released = {
        "libvirt": {Reader("libvirt", s.libvirt, starts=s.qemu) for s in SYSTEMS},
        "qemu": {Reader("qemu", s.qemu) for s in SYSTEMS},
    }
    return tuple(
        reader
        for program in PROGRAMS
        for reader in sorted(released[program], key=lambda reader: reader.release)
    )


def shipping(program: str, release: str) -> tuple[str, ...]:
    """Return the names of the distributions that ship a release of a program."""
    return tuple(
        system.name
        for system in SYSTEMS
        if str(system.libvirt if program == "libvirt" else system.qemu) == release
    )
