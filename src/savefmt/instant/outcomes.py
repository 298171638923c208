"""What making clones reports."""

from __future__ import annotations

from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class ClonedGuest:
    """One guest that can be started.

    Attributes
    ----------
    name, uuid : str
        Of the guest.
    image : str
        Its thin image.
    script : str or None
        What starts it; None where ``virsh restore`` does.
    """

    name: str
    uuid: str
    image: str
    script: str | None = None


@dataclass(frozen=True, slots=True)
class CloneReport:
    """What `clone` made.

    Attributes
    ----------
    base : str
        The image that all of them run on.
    guests : tuple of ClonedGuest
        In order.
    mapped_length : int
        Bytes of memory that none of them loads.
    thin_length : int
        Bytes of one thin image.
    seconds : float
        All of it.
    remarks : tuple of str
        What must differ between the guests, and what their host must allow.
    """

    base: str
    guests: tuple[ClonedGuest, ...]
    mapped_length: int
    thin_length: int
    seconds: float
    remarks: tuple[str, ...] = ()
