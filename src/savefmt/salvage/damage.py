"""What is wrong with a damaged image, and what could still be recovered from it."""

from __future__ import annotations

from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A device section that survived, from its head to behind its footer."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows RAM.

    Attributes
    ----------
    devices : tuple of Device
        Sections that survived, in order.
    missing : tuple of str
        Names of those that did not, as far as they are known.
    whole : bool
        Whether all of them are there.
    description : tuple of (int, int) or None
        Where the vmdescription stands, its mark included.
    """

    devices: tuple[Device, ...]
    missing: tuple[str, ...]
    whole: bool
    description: tuple[int, int] | None
