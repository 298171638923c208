"""What a conversion passes on so that its result can be verified."""

from __future__ import annotations

from savefmt.convert.came import Came
from savefmt.frozen import dataclass
from savefmt.native.pages import Table


@dataclass(frozen=True, slots=True)
class Outcome:
    """What went into the target.

    Attributes
    ----------
    sums : dict of str to Table, or None
        Page sums of the source by idstr, where a key was given.
    devices : str or None
        `DeviceDigests.together`, where a key was given.
    data_pages : int or None
        Pages with content.
    cloned : int
        Bytes of pages that were cloned, not copied.
    end : int
        Where the image ends in the target; 0 for one that is no file.
    came : Came or None
        Which pages records of a sequential source named.
    """

    sums: dict[str, Table] | None
    devices: str | None
    data_pages: int | None
    cloned: int = 0
    end: int = 0
    came: Came | None = None
