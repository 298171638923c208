"""The results of searches and statistics of memory."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from savefmt.frozen import dataclass, field


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that `search` found.

    Attributes
    ----------
    pattern : str
        What was looked for: the pattern as written, or rule and string of YARA.
    block : str
        idstr of the RAM block.
    offset, length : int
        Where in the block, in bytes.
    physical, virtual : tuple of int
        Addresses at which the guest sees the first byte; virtual ones on request.
    data, before, after : bytes
        The bytes that matched, and the bytes around them.
    """

    pattern: str
    block: str
    offset: int
    length: int
    physical: tuple[int, ...]
    virtual: tuple[int, ...]
    data: bytes
    before: bytes = b""
    after: bytes = b""


@dataclass(frozen=True, slots=True)
class MemoryHash:
    """A hash, and what of.

    Attributes
    ----------
    kind : str
        ``memory``, ``block`` or ``page``.
    block : str
        idstr; empty for the whole memory.
    offset, length : int
        Which bytes of the block; for the whole memory, the bytes of all blocks.
    digest : str
        Hexadecimal.
    algorithm : str
        How it was made.
    """

    kind: str
    block: str
    offset: int
    length: int
    digest: str
    algorithm: str

    @property
    def label(self) -> str:
        """Its name in a manifest, which is one of its own for each thing hashed."""
        if self.kind == "memory":
            return "memory"
        name = _on_one_line(self.block)
        return f"block:{name}" if self.kind == "block" else f"page:{name}@{self.offset:#x}"


def _on_one_line(name: str) -> str:
    """Escape what does not print, so that no two names become the same."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name
    )


class Text(NamedTuple):
    """Printable characters in a row: block, offset of the first one in bytes, and they."""

    block: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What the pages of a block are like.

    Attributes
    ----------
    idstr : str
        The block.
    pages, zero : int
        All of them, and those of zeros.
    distinct, unique : int
        Different pages among the others, and those that occur once in the block.
    entropy : float
        Bits a byte, the mean over pages that are not zero.
    histogram : tuple of int
        Pages by their entropy: from 0 to below 1 bit, from 1 to below 2, and so on to 8.
    lost : int
        Pages whose content is lost in a damaged image; no other count includes them.
    """

    idstr: str
    pages: int
    zero: int
    distinct: int
    unique: int
    entropy: float
    histogram: tuple[int, ...]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """What a guest's pages are like; `distinct` and `unique` over all blocks together."""

    page_size: int
    blocks: tuple[BlockStats, ...]
    distinct: int
    unique: int
    left_out: tuple[str, ...] = ()

    COMPUTED: ClassVar = ("pages", "zero", "duplicate", "lost")

    @property
    def pages(self) -> int:
        """All pages."""
        return sum(block.pages for block in self.blocks)

    @property
    def zero(self) -> int:
        """Pages of zeros."""
        return sum(block.zero for block in self.blocks)

    @property
    def lost(self) -> int:
        """Pages whose content is not known."""
        return sum(block.lost for block in self.blocks)

    @property
    def duplicate(self) -> int:
        """Pages that are like an earlier one, zeros left out: what sharing could save."""
        return self.pages - self.zero - self.lost - self.distinct


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something in memory that tells about the guest's system.

    Attributes
    ----------
    kind : str
        ``linux.banner``, ``linux.vmcoreinfo``, ``windows.build``, ``windows.pdb``,
        ``windows.kernel`` or ``windows.start-block``.
    value : str
        What it says.
    block : str
        Where it lies: RAM block, offset there, and guest-physical addresses.
    offset : int
        In bytes.
    physical : tuple of int
        None where the block's place is not known.
    detail : tuple of (str, str)
        Further facts by name.
    """

    kind: str
    value: str
    block: str
    offset: int
    physical: tuple[int, ...]
    detail: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SystemHint:
    """What system a guest runs, as far as its memory tells without symbols.

    Attributes
    ----------
    path : str
        The image.
    system : str or None
        ``linux`` or ``windows``; None without evidence.
    version : str or None
        Release of the kernel, or build of Windows.
    kaslr_shift : int or None
        How far Linux's kernel text was moved from where it was linked.
    kernel_base : int or None
        Virtual address of Windows' kernel.
    evidence : tuple of Evidence
        What this rests on, the strongest kind first.
    notes : tuple of str
        What is in doubt.
    """

    path: str
    system: str | None
    version: str | None
    kaslr_shift: int | None
    kernel_base: int | None
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    """Where a block lies in a picture: page `n` is in square `n // pages`.

    Attributes
    ----------
    left, top : int
        Pixels.
    columns : int
        Squares in a row.
    scale : int
        Pixels of a square's side.
    pages : int
        Pages that a square stands for.
    """

    left: int
    top: int
    columns: int
    scale: int
    pages: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What was drawn: pixels, and where each block lies.

    Attributes
    ----------
    width, height : int
        Of the whole picture.
    rows : dict of str to int
        The row of pixels in which each block begins.
    areas : dict of str to Area
        Where each block's pages are; of a bare picture, which has a pixel a page, nothing.
    """

    width: int
    height: int
    rows: dict[str, int]
    areas: dict[str, Area] = field(default_factory=dict)


class Painting(NamedTuple):
    """A picture as a PNG file, and what is where in it."""

    png: bytes
    picture: Picture
