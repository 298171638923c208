"""Page records one at a time, for the places where the C core's scanner cannot go on."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import CorruptError
from savefmt.format.ram import EOS_WORD, ZERO_FILL, BlockList, pack_word
from savefmt.format.wire import RamFlag, pack_counted
from savefmt.frozen import dataclass

_CONTINUE = RamFlag.CONTINUE.value
_ZERO, _PAGE, _DELTA = RamFlag.ZERO.value, RamFlag.PAGE.value, RamFlag.XBZRLE.value
_BARE = (RamFlag.HOOK.value, RamFlag.MULTIFD_FLUSH.value)
_KINDS = frozenset({_ZERO, _PAGE, _DELTA, RamFlag.EOS.value, *_BARE})
_DELTA_HEAD = 3
_WORD = 8


@dataclass(frozen=True, slots=True)
class Element:
    """A record or a bare word of a ``ram`` payload.

    Attributes
    ----------
    start, end : int
        Where it is in the file.
    flag : int
        Its kind; 0 for a bare word.
    block : int or None
        Number of its block; None if it continues an unknown block.
    address : int
        Of its page in the block.
    named : bool
        Whether it names its block.
    body : int
        Where the file continues, behind word and name.
    """

    start: int
    end: int
    flag: int
    block: int | None
    address: int
    named: bool
    body: int

    @property
    def is_end(self) -> bool:
        """Whether it is the end marker."""
        return self.flag == RamFlag.EOS.value

    @property
    def is_page(self) -> bool:
        """Whether it belongs to a page."""
        return self.flag in (_ZERO, _PAGE, _DELTA)

    @property
    def is_content(self) -> bool:
        """Whether it has a page's content whole."""
        return self.flag == _PAGE

    @property
    def is_delta(self) -> bool:
        """Whether it tells how a page differs from what it was."""
        return self.flag == _DELTA


class Elements:
    """Splits payloads into elements.

    Parameters
    ----------
    blocks : BlockList
        Of the stream.
    """

    def __init__(self, blocks: BlockList) -> None:
        self.page_size = blocks.page_size
        self.names = [block.name for block in blocks.blocks]
        self.lengths = [block.used_length for block in blocks.blocks]
        self.longest = max(self.lengths, default=0)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def parse(self, data: bytes, base: int, block: int | None) -> Iterator[Element]:
        """Yield the complete elements in `data`, which is at `base`.

        Parameters
        ----------
        data : bytes
            Begins with a word.
        base : int
            Where it lies in the file.
        block : int or None
            What the first record continues, if it does.

        Raises
        ------
        CorruptError
            At the first word that no record has.
        """
        at = 0
        while (element := self._one(data, at, base, block)) is not None:
            yield element
            if element.is_end:
                return
            block = element.block
            at = element.end - base

    def _one(self, data: bytes, at: int, base: int, block: int | None) -> Element | None:
        word = int.from_bytes(data[at : at + _WORD], "big")
        if at + _WORD > len(data):
            return None
        start = base + at
        flags = word & (self.page_size - 1)
        address, flag = word - flags, flags & ~_CONTINUE
        at += _WORD
        if word.to_bytes(_WORD, "big") == EOS_WORD or (flag in _BARE and not address):
            kind = RamFlag.EOS.value if flag not in _BARE else 0
            return Element(start, base + at, kind, block, 0, False, base + at)
        if flag not in (_ZERO, _PAGE, _DELTA):
            raise CorruptError(f"RAM word {word:#x} begins no page record", offset=start)
        named = not flags & _CONTINUE
        if named:
            name = data[at + 1 : at + 1 + data[at]] if at < len(data) else b""
            if at >= len(data) or len(name) < data[at]:
                return None
            if name not in self._numbers:
                raise CorruptError("a page belongs to no known block", offset=start)
            block = self._numbers[name]
            at += 1 + len(name)
        length = self.longest if block is None else self.lengths[block]
        if address + self.page_size > length:
            raise CorruptError(
                f"a page at {address:#x} is beyond the end of its block", offset=start
            )
        body = at
        if flag == _ZERO:
            at += 1
        elif flag == _PAGE:
            at += self.page_size
        else:
            at += _DELTA_HEAD + int.from_bytes(data[at + 1 : at + _DELTA_HEAD], "big")
        if at > len(data):
            return None
        if flag == _ZERO and data[body:at] != ZERO_FILL:
            raise CorruptError("a page of zeros has another fill byte", offset=start)
        return Element(start, base + at, flag, block, address, named, base + body)

    def may_go_on(self, data: bytes, at: int) -> bool:
        """Tell, as far as `data` goes, whether something can follow a record that begins there.

        Cheap, for there may be very many words that look like one.
        """
        word = int.from_bytes(data[at : at + _WORD], "big")
        flags = word & (self.page_size - 1)
        at += _WORD
        if not flags & _CONTINUE and at < len(data):
            if data[at + 1 : at + 1 + data[at]] not in self._numbers:
                return at + 1 + data[at] > len(data)
            at += 1 + data[at]
        at += {_ZERO: 1, _PAGE: self.page_size}.get(flags & ~_CONTINUE, len(data))
        behind = int.from_bytes(data[at : at + _WORD], "big")
        return at + _WORD > len(data) or behind & (self.page_size - 1) & ~_CONTINUE in _KINDS

    def head(self, element: Element, block: int) -> bytes:
        """Return word and name of a record that names its block."""
        return pack_word(element.address, RamFlag(element.flag)) + pack_counted(self.names[block])
