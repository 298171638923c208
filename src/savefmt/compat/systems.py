"""What people run now: the libvirt and the QEMU of current distributions."""

from __future__ import annotations

from savefmt.compat.machines import ONLY_OWN_TYPES
from savefmt.compat.releases import Reader, Release
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
    System(
        *("RHEL 9.6", Release(10, 10), Release(9, 1)),
        "10.10.0-7.6.el9_6; QEMU 9.1 by CentOS Stream's qemu-kvm",
    ),
    System(
        *("RHEL 10.0", Release(10, 10), Release(9, 1)),
        "10.10.0-7.el10 (AlmaLinux's); QEMU 9.1 by CentOS Stream's qemu-kvm",
    ),
    System("Debian 13", Release(11, 3), Release(10, 0), "11.3.0-3+deb13u3, 1:10.0.11+ds-0+deb13u1"),
    System("RHEL 10.1", Release(11, 5), Release(10, 0), "11.5.0-4.2.el10_1, 10.0.0-14.el10_1"),
    System("Fedora 43", Release(11, 6), Release(10, 1), "11.6.0-2.fc43, 10.1.2-1.fc43"),
    System("Fedora 44", Release(12, 0), Release(10, 2), "12.0.0-3.fc44, 10.2.2-1.fc44"),
    System("Ubuntu 26.04", Release(12, 0), Release(10, 2), "12.0.0-1ubuntu5, QEMU 10.2.1"),
)
"""Current distributions, by age of what they ship."""


def current() -> tuple[Reader, ...]:
    """Return the readers that they ship: the libvirts first, RHEL's own QEMUs last."""
    libvirts = [Reader("libvirt", s.libvirt, starts=s.qemu, system=s.name) for s in SYSTEMS]
    qemus = [Reader("qemu", s.qemu, system=s.name) for s in SYSTEMS]
    return (
        *sorted(libvirts, key=lambda reader: reader.release),
        *sorted(qemus, key=lambda reader: (reader.vendor in ONLY_OWN_TYPES, reader.release)),
    )
