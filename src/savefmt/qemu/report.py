"""What saving and restoring report."""

from __future__ import annotations

from savefmt.errors import SavefmtError
from savefmt.frozen import dataclass
from savefmt.reports import SavePlan


class MigrationError(SavefmtError):
    """QEMU did not save or load a guest; the message says what became of the guest."""


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What `savefmt.qemu.save` did.

    Attributes
    ----------
    target : str
        As given.
    domain : str
        Name of the guest, as the image's XML has it.
    machine : str
        Machine type.
    plan : SavePlan
        What the policy decided, and what was done.
    live : bool
        Whether the guest ran while it was saved.
    state : str
        Of the guest now: ``running``, ``paused`` or ``ended``.
    ram_length : int
        Bytes of the guest's RAM blocks.
    length, disk_length : int or None
        Bytes of the image, and those allocated on the disk; None for a pipe.
    seconds : float
        From the start to the finished image.
    held_seconds : float
        How long the guest stood still, as far as it runs again.
    notes : tuple of str
        What was done otherwise than asked for.
    """

    target: str
    domain: str
    machine: str
    plan: SavePlan
    live: bool
    state: str
    ram_length: int
    length: int | None
    disk_length: int | None
    seconds: float
    held_seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What `savefmt.qemu.restore` did.

    Attributes
    ----------
    image : str
        As given.
    machine : str
        Machine type.
    layout, codec : str
        Of the image.
    channels : int
        Of multifd; 0 without it.
    direct : bool
        Whether the page cache was bypassed.
    state : str
        Of the guest now: ``running`` or ``paused``.
    ram_length : int
        Bytes of the guest's RAM blocks.
    seconds : float
        All of it.
    notes : tuple of str
        What was done otherwise than asked for.
    mapped_length : int
        Bytes of RAM that were not loaded: the guest runs on the image's own pages.
    dry_run : bool
        Nothing was done; `state` is what the guest's would be.
    """

    image: str
    machine: str
    layout: str
    codec: str
    channels: int
    direct: bool
    state: str
    ram_length: int
    seconds: float
    notes: tuple[str, ...] = ()
    mapped_length: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CommandSkeleton:
    """A command line that `savefmt.qemu.command_line` derived from an image.

    Attributes
    ----------
    words : tuple of tuple of str
        The program, then every option with its value.
    remarks : tuple of str
        What the image tells and no option here says.
    """

    words: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]
