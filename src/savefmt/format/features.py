"""The `features` word of the proposed version 3, bit by bit (format.md 2.13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """One bit of the word.

    Attributes
    ----------
    bit : int
        Its number, the least significant being 0.
    name : str
        As `savefmt info` and error messages call it.
    meaning : str
        What it says about the image.
    since : str
        Where the bit comes from.
    readable : bool
        Whether this release reads images that set it.
    """

    bit: int
    name: str
    meaning: str
    since: str
    readable: bool = True

    @property
    def mask(self) -> int:
        """The word with this bit alone."""
        return 1 << self.bit


FEATURES: tuple[Feature, ...] = (
    Feature(
        bit=0,
        name="mapped-ram",
        meaning="the stream keeps every page at a fixed place of the file",
        since="the version 3 proposed on the libvirt list in 2024, never released",
    ),
)
"""Every bit that has a name; a reader must know all bits that are set."""


def name_bits(word: int, table: Sequence[Feature] = FEATURES) -> Iterator[str]:
    """Tell which bits a word sets.

    Parameters
    ----------
    word : int
        The features.
    table : sequence of Feature
        The bits that have names.

    Yields
    ------
    str
        ``0 (mapped-ram)``, or the number alone for a bit without a name.
    """
    names = {feature.bit: feature.name for feature in table}
    for bit in range(word.bit_length()):
        if word >> bit & 1:
            yield f"{bit} ({names[bit]})" if bit in names else str(bit)


def unreadable_bits(word: int, table: Sequence[Feature] = FEATURES) -> int:
    """Return the bits of a word that this release must refuse."""
    return word & ~sum(feature.mask for feature in table if feature.readable)
