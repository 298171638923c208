"""ELF core files: headers and notes as bytes (ELF specification, System V ABI)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

from savefmt.frozen import dataclass
from savefmt.guest.arch.base import ByteOrder, CoreForm, CoreNote

PT_LOAD = 1
PT_NOTE = 4
SHT_STRTAB = 3

PN_XNUM = 0xFFFF
"""A header count that says: section header 0 has the real one."""

_ET_CORE = 4
_NAMES = b"\0.shstrtab\0"


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """One segment; `length` is both in the file and in memory."""

    kind: int
    offset: int
    virtual: int
    physical: int
    length: int


@dataclass(frozen=True, slots=True)
class ElfClass:
    """Sizes and layouts of one word size and byte order.

    Attributes
    ----------
    bits : int
        32 or 64.
    byte_order : str
        ``little`` or ``big``.
    header, program, section : struct.Struct
        Layouts of the three kinds of headers.
    """

    bits: int
    byte_order: ByteOrder
    header: struct.Struct
    program: struct.Struct
    section: struct.Struct

    @property
    def ident(self) -> bytes:
        """The bytes that an ELF file begins with."""
        return b"\x7fELF" + bytes([self.bits // 32, 1 if self.byte_order == "little" else 2, 1])

    def pack_note(self, note: CoreNote) -> bytes:
        """Return a note: name and content each padded to 4 bytes."""
        name = note.owner + b"\0"
        order = "<" if self.byte_order == "little" else ">"
        head = struct.pack(f"{order}III", len(name), len(note.content), note.kind)
        return head + _padded(name) + _padded(note.content)

    def pack_program(self, item: ProgramHeader) -> bytes:
        """Return a program header, without flags and alignment, as QEMU writes it."""
        length = item.length
        if self.bits == 64:
            return self.program.pack(
                *(item.kind, 0, item.offset, item.virtual, item.physical, length, length, 0)
            )
        return self.program.pack(
            *(item.kind, item.offset, item.virtual, item.physical, length, length, 0, 0)
        )

    def pack_section(
        self, *, name: int = 0, kind: int = 0, offset: int = 0, length: int = 0, info: int = 0
    ) -> bytes:
        """Return a section header."""
        return self.section.pack(name, kind, 0, 0, offset, length, 0, info, 0, 0)


@cache
def elf_class(bits: int, byte_order: ByteOrder) -> ElfClass:
    """Return the layouts of a word size and a byte order."""
    mark = "<" if byte_order == "little" else ">"
    layouts = (
        ("16sHHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ")
        if bits == 64
        else ("16sHHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII")
    )
    return ElfClass(bits, byte_order, *(struct.Struct(mark + layout) for layout in layouts))


def class_of(form: CoreForm) -> ElfClass:
    """Return the layouts of a core."""
    return elf_class(form.bits, form.byte_order)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def head_length(elf: ElfClass, count: int) -> int:
    """Return the length of what `pack_head` writes for that many program headers."""
    section = elf.section.size if count >= PN_XNUM else 0
    return elf.header.size + count * elf.program.size + section


def pack_head(form: CoreForm, headers: Sequence[ProgramHeader]) -> bytes:
    """Return header and program headers in the layout that all readers take.

    The program headers follow the ELF header. There are no sections, except the one that a
    count beyond 16 bits needs.

    Parameters
    ----------
    form : CoreForm
        How it is marked.
    headers : sequence of ProgramHeader
        The notes first.

    Returns
    -------
    bytes
        From the start of the file on.
    """
    elf = class_of(form)
    many = len(headers) >= PN_XNUM
    sections = elf.header.size + len(headers) * elf.program.size if many else 0
    head = elf.header.pack(
        *(elf.ident, _ET_CORE, form.machine, 1, 0, elf.header.size, sections, 0),
        *(elf.header.size, elf.program.size, PN_XNUM if many else len(headers)),
        *(elf.section.size if many else 0, int(many), 0),
    )
    tail = elf.pack_section(info=len(headers)) if many else b""
    return head + b"".join(map(elf.pack_program, headers)) + tail


def qemu_head_length(elf: ElfClass, count: int) -> int:
    """Return the length of what `pack_qemu` puts in front, by number of program headers."""
    return elf.header.size + 2 * elf.section.size + count * elf.program.size


def pack_qemu(form: CoreForm, headers: Sequence[ProgramHeader], end: int) -> tuple[bytes, bytes]:
    """Return head and tail of the file as QEMU 10 lays them out.

    Two section headers follow the ELF header, the program headers come behind them, and
    the names of the sections end the file.  QEMU gives its ELF header a length of 8.

    Parameters
    ----------
    form : CoreForm
        How it is marked.
    headers : sequence of ProgramHeader
        The notes first.
    end : int
        Where the last segment ends in the file.

    Returns
    -------
    (bytes, bytes)
        For the start of the file, and for `end`.
    """
    elf = class_of(form)
    many = len(headers) >= PN_XNUM
    head = elf.header.pack(
        *(elf.ident, _ET_CORE, form.machine, 1, 0),
        *(elf.header.size + 2 * elf.section.size, elf.header.size, 0),
        *(8, elf.program.size, PN_XNUM if many else len(headers), elf.section.size, 2, 1),
    )
    first = elf.pack_section(info=len(headers) if many else 0)
    # This one QEMU leaves in the byte order of its host, which is taken to be little-endian.
    host = elf_class(elf.bits, "little")
    second = host.pack_section(name=1, kind=SHT_STRTAB, offset=end, length=len(_NAMES))
    return head + first + second + b"".join(map(elf.pack_program, headers)), _NAMES
