"""What goes wrong between a libvirt and a QEMU, although each of them works correctly."""

from __future__ import annotations

from savefmt.compat.releases import Release
from savefmt.frozen import dataclass

Span = tuple[Release | None, Release | None]
"""From the first release on, and before the last; None leaves an end open."""


@dataclass(frozen=True, slots=True)
class Pitfall:
    """One thing that goes wrong.

    Attributes
    ----------
    key : str
        Name of it in the rules.
    libvirt, qemu : tuple of (Release or None, Release or None)
        The releases between which it happens.
    what : str
        What happens, in words.
    remedy : str
        What to do.
    source : str
        Who says so.
    """

    key: str
    libvirt: Span
    qemu: Span
    what: str
    remedy: str
    source: str

    def meets(self, libvirt: Release, qemu: Release) -> bool:
        """Whether it happens between these two."""
        return _within(self.libvirt, libvirt) and _within(self.qemu, qemu)


def _within(span: Span, release: Release) -> bool:
    first, end = span
    return (first is None or release >= first) and (end is None or release < end)


_NEWS = "libvirt release notes"
SET_BACK = (
    'virsh qemu-monitor-command GUEST \'{"execute":"migrate-set-parameters","arguments":'
    '{"direct-io":false}}\''
)
"""Takes back what ``virsh restore --bypass-cache`` leaves set in a guest's QEMU."""

PITFALLS: tuple[Pitfall, ...] = (
    Pitfall(
        "too-old",
        (Release(12, 4), None),
        (None, Release(7, 2)),
        "it starts no QEMU before 7.2",
        "use a newer QEMU",
        f"{_NEWS}, 12.4.0",
    ),
    Pitfall(
        "too-old",
        (Release(11, 2), None),
        (None, Release(6, 2)),
        "it starts no QEMU before 6.2",
        "use a newer QEMU",
        f"{_NEWS}, 11.2.0",
    ),
    Pitfall(
        "raw-file",
        (None, Release(12, 1)),
        (Release(11, 0), None),
        "virsh restore of a raw image needs --bypass-cache: that QEMU takes no plain file as fd:",
        "virsh restore --bypass-cache, or savefmt convert -O sparse",
        "11.3 with 11.1 (tried), 12.8 with 11.1 loads them (tried)",
    ),
    Pitfall(
        "no-save",
        (None, Release(12, 1)),
        (Release(11, 0), None),
        "virsh save fails (\"Parameter 'detach' is unexpected\"), so the guest is not saved again",
        "savefmt save, or libvirt 12.1",
        "11.3 with 11.1 (tried), 12.8 with 11.1 saves (tried)",
    ),
    Pitfall(
        "threads",
        (None, Release(11, 10)),
        (Release(10, 0), None),
        "several cores or threads in a socket, saved without the CPU feature ht, are refused "
        '("extra features: ht")',
        "libvirt 11.10, or savefmt restore",
        f"{_NEWS}, 11.10.0; 11.3 with 10.0 (tried)",
    ),
    Pitfall(
        "direct-io",
        (Release(11, 2), None),
        (Release(9, 1), None),
        "after virsh restore --bypass-cache of a sparse image the guest dies in its next sparse "
        "save without --bypass-cache: direct-io stays set in its QEMU",
        f"save with --bypass-cache, too, or first {SET_BACK}",
        "11.3 and 12.8 with 10.0 and 11.1 (tried)",
    ),
    Pitfall(
        "sparse-snapshot",
        (Release(11, 3), Release(12, 8)),
        (Release(9, 0), None),
        'snapshot_image_format = "sparse" writes a file with a wrong label, which snapshot-revert '
        "loads and virsh restore refuses",
        "leave it raw; savefmt convert mends the label",
        "11.3 with 10.0 (tried)",
    ),
    Pitfall(
        "sparse-snapshot",
        (Release(12, 8), None),
        (Release(11, 1), None),
        'snapshot_image_format = "sparse" makes the snapshot fail',
        "leave it raw",
        "12.8 with 11.1 (tried)",
    ),
    Pitfall(
        "sparse-revert",
        (Release(11, 2), None),
        (Release(9, 0), None),
        "a snapshot's memory that was converted to sparse cannot be reverted to",
        "savefmt convert -O raw",
        "11.3 with 10.0 (tried)",
    ),
)
"""What was tried is known of the releases in the source alone: the span around them is a guess
where release notes do not give its ends."""

DIRECT_IO_STAYS = next(pitfall for pitfall in PITFALLS if pitfall.key == "direct-io")


def met(key: str, libvirt: Release, qemu: Release) -> Pitfall | None:
    """Return the pitfall with a name if it applies to two releases, else None."""
    here = (p for p in PITFALLS if p.key == key and p.meets(libvirt, qemu))
    return next(here, None)
