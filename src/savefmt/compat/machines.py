"""Machine types: which releases of QEMU have each of them."""

from __future__ import annotations

import enum
import re
from typing import Self

from savefmt.compat.releases import Release
from savefmt.frozen import dataclass

UNVERSIONED = {
    "isapc": Release(0),
    "microvm": Release(4, 2),
    "none": Release(0),
    "x-remote": Release(6, 0),
    "xenfv": Release(0),
    "xenpv": Release(0),
}
"""x86 machines without a version, of which QEMU promises nothing from release to release,
and the releases they came with (QEMU change logs); 0 means long before 2.4."""

_VERSIONED = re.compile(r"(?P<family>.+)-(?P<version>\d{1,3}\.\d{1,3}(\.\d{1,3})?)")

_X86 = frozenset({"pc", "pc-i440fx", "pc-q35"})
_UPSTREAM = _X86 | {"virt", "pseries", "s390-ccw-virtio"}

REMOVED: tuple[tuple[str, Release, Release], ...] = (
    ("pc", Release(0, 11), Release(4, 0)),
    ("pc", Release(0, 15), Release(5, 0)),
    ("pc", Release(1, 3), Release(6, 0)),
    ("pc-q35", Release(2, 3), Release(2, 6)),
    ("pc-i440fx", Release(1, 7), Release(8, 2)),
    ("pc-i440fx", Release(2, 3), Release(9, 1)),
)
"""Family, its newest version that went, and the first release without it.

Sources: QEMU's commits of removal and its "Removed features"; libvirt's record of QEMU's machine
lists (tests/qemucapabilitiesdata): 2.5 has pc-q35 from 1.4 on and 2.6 from 2.4 on, 9.0 has
pc-i440fx from 2.0 on.  Tried: the lists of 7.2 and 10.0.
"""

UBUNTU: dict[str, Release] = {
    "trusty": Release(2, 0),
    "utopic": Release(2, 1),
    "vivid": Release(2, 2),
    "wily": Release(2, 3),
    "xenial": Release(2, 5),
    "yakkety": Release(2, 6),
    "zesty": Release(2, 8),
    "artful": Release(2, 10),
    "bionic": Release(2, 11),
    "cosmic": Release(2, 12),
    "disco": Release(3, 1),
    "eoan": Release(4, 0),
    "focal": Release(4, 2),
    "groovy": Release(5, 0),
    "hirsute": Release(5, 2),
    "impish": Release(6, 0),
    "jammy": Release(6, 2),
    "kinetic": Release(7, 0),
    "lunar": Release(7, 2),
    "mantic": Release(8, 0),
    "noble": Release(8, 2),
    "oracular": Release(9, 0),
    "plucky": Release(9, 2),
    "questing": Release(10, 1),
    "resolute": Release(10, 2),
}
"""Ubuntu's names in its machine types, and the QEMU of each release.

Sources: versions of the package qemu in Ubuntu's security notices (2.0.0+dfsg-2ubuntu1 for 14.04 up
to 8.0.4+dfsg-1ubuntu3 for 23.10) and in what `qemu --version` prints (8.2.2+ds-0ubuntu1,
9.2.1+ds-1ubuntu5, 10.1.0+ds-5ubuntu2); Ubuntu Server documentation for 26.04 (10.2.1).
"""

_VENDORS = (
    (re.compile(r"(?P<family>.+)-rhel(?P<version>\d{1,2}\.\d{1,2}\.\d{1,2})"), "RHEL"),
    (re.compile(rf"(?P<family>.+)-(?P<name>{'|'.join(UBUNTU)})(?:-.+)?"), "Ubuntu"),
)

ONLY_OWN_TYPES = frozenset({"RHEL"})
"""Distributions whose QEMU lacks all of QEMU's own versioned machine types."""

AGEING_SINCE = Release(10, 1)
"""From here on age alone removes a type (QEMU include/hw/boards.h, 10.1)."""
DELETED_AFTER = 6
"""Major releases, one a year, after which a type is deleted (same place)."""
DEPRECATED_AFTER = 3
"""Major releases after which a type is deprecated; 10.0.2 marks up to 7.0 so (tried)."""
DEPRECATING_SINCE = Release(9, 1)
"""The first release that deprecates by age (same place)."""


class Standing(enum.StrEnum):
    """What a release of QEMU makes of a machine type."""

    KNOWN = "known"
    DEPRECATED = "deprecated"
    REMOVED = "removed"
    TOO_NEW = "too new"
    UNVERSIONED = "unversioned"
    VENDOR = "of a distribution"
    FOREIGN = "foreign"
    UNNAMED = "unnamed"


@dataclass(frozen=True, slots=True)
class Machine:
    """The parts of a machine type's name.

    Attributes
    ----------
    name : str
        As the stream spells it.
    family : str
        The name without its version.
    version : Release or None
        None if the name has none; with a `vendor`, a version of that vendor.
    vendor : str
        The distribution whose own type it is, empty for QEMU's.
    """

    name: str
    family: str
    version: Release | None
    vendor: str = ""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Take a name apart."""
        for pattern, vendor in _VENDORS:
            if own := pattern.fullmatch(name):
                named = own.groupdict()
                known = UBUNTU.get(named.get("name", ""))
                version = known or Release.parse(named["version"])
                return cls(name, own["family"], version, vendor)
        found = _VERSIONED.fullmatch(name)
        if found is None:
            return cls(name, name, None)
        return cls(name, found["family"], Release.parse(found["version"]))

    @property
    def may_be_arm(self) -> bool:
        """Whether its name does not belong to x86, POWER or s390x."""
        return not self.name.startswith(("pc", "isapc", "microvm", "pseries", "s390"))

    @property
    def is_upstream(self) -> bool:
        """Whether the version is one of QEMU's own, not of a distribution."""
        return self.version is not None and self.family in _UPSTREAM and not self.vendor

    def standing(self, release: Release) -> Standing:
        """Tell whether a release has this machine type.

        Parameters
        ----------
        release : Release
            Of QEMU.

        Returns
        -------
        Standing
            By the tables above; `FOREIGN` where they do not reach.
        """
        if not self.name:
            return Standing.UNNAMED
        if self.vendor == "Ubuntu" and self.version is not None and self.version > release:
            return Standing.TOO_NEW
        if self.vendor:
            return Standing.VENDOR
        if self.version is None or not self.is_upstream:
            since = UNVERSIONED.get(self.name)
            if since is None:
                return Standing.FOREIGN
            return Standing.UNVERSIONED if release >= since else Standing.TOO_NEW
        if (self.version.major, self.version.minor) > (release.major, release.minor):
            return Standing.TOO_NEW
        if self._removed(self.version, release):
            return Standing.REMOVED
        if self.family not in _X86 and _expired(self.version, release, DELETED_AFTER):
            return Standing.FOREIGN  # some of these went before age alone removed them
        if release >= DEPRECATING_SINCE and _expired(self.version, release, DEPRECATED_AFTER):
            return Standing.DEPRECATED
        return Standing.KNOWN

    def _removed(self, version: Release, release: Release) -> bool:
        if release >= AGEING_SINCE and _expired(version, release, DELETED_AFTER):
            return True
        return any(
            family == self.family and version <= newest and release >= gone
            for family, newest, gone in REMOVED
        )


def lack_of_type(machine: Machine, system: str) -> str | None:
    """Tell why the QEMU of a distribution has not a machine type, by whose it is.

    Parameters
    ----------
    machine : Machine
        The type.
    system : str
        A distribution with its release, such as ``RHEL 10.1``.

    Returns
    -------
    str or None
        Why, empty where it has it; None where the release of its QEMU decides.
    """
    vendor, _, number = system.partition(" ")
    if machine.vendor and machine.vendor != vendor:
        return f"the machine type {machine.name} is {machine.vendor}'s own"
    if machine.vendor == "RHEL" and machine.version is not None:
        too_new = machine.version[:2] > Release.parse(number)[:2]
        return f"the machine type {machine.name} is newer" if too_new else ""
    if vendor in ONLY_OWN_TYPES and machine.version is not None:
        return f"{vendor}'s QEMU has only machine types of its own, not {machine.name}"
    return None


def came_in(machine: Machine) -> Release | None:
    """Return the first release that has a machine type, None if none is known."""
    if machine.is_upstream or machine.vendor == "Ubuntu":
        return machine.version
    return UNVERSIONED.get(machine.name)


def gone_in(machine: Machine) -> Release | None:
    """Return the first release that no longer has a machine type, None if none is known."""
    if machine.version is None or not machine.is_upstream:
        return None
    for family, newest, gone in REMOVED:
        if family == machine.family and machine.version <= newest:
            return gone
    aged = Release(machine.version.major + DELETED_AFTER, machine.version.minor)
    return max(aged, AGEING_SINCE)


def _expired(version: Release, release: Release, cutoff: int) -> bool:
    age = release.major - version.major
    return age > cutoff or (age == cutoff and release.minor >= version.minor)
