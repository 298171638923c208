"""ELF core files: headers and notes as bytes (ELF specification, System V ABI)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from savefmt.frozen import dataclass

EM_386 = 3
EM_X86_64 = 62
EM_AARCH64 = 183

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
    """Sizes and layouts of one word size.

    Attributes
    ----------
    bits : int
        32 or 64.
    header, program, section : struct.Struct
        Layouts of the three kinds of headers.
    """

    bits: int
    header: struct.Struct
    program: struct.Struct
    section: struct.Struct

    @property
    def mark(self) -> int:
        """EI_CLASS."""
        return 2 if self.bits == 64 else 1

    def pack_program(self, item: ProgramHeader) -> bytes:
        """Return a program header, without flags and alignment: QEMU has none either."""
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


ELF64 = ElfClass(
    64,
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    struct.Struct("<IIQQQQIIQQ"),
)
ELF32 = ElfClass(
    32,
    struct.Struct("<16sHHIIIIIHHHHHH"),
    struct.Struct("<IIIIIIII"),
    struct.Struct("<IIIIIIIIII"),
)


def pack_note(name: bytes, kind: int, content: bytes) -> bytes:
    """Return a note: name and content each padded to 4 bytes."""
    name += b"\0"
    head = struct.pack("<III", len(name), len(content), kind)
    return head + _padded(name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def head_length(count: int) -> int:
    """Return the length of what `pack_head` writes for that many program headers."""
    section = ELF64.section.size if count >= PN_XNUM else 0
    return ELF64.header.size + count * ELF64.program.size + section


def pack_head(machine: int, headers: Sequence[ProgramHeader]) -> bytes:
    """Return header and program headers in the layout that all readers take.

    The program headers follow the ELF header and there are no sections, but for the one
    that a count beyond 16 bits needs.

    Parameters
    ----------
    machine : int
        e_machine.
    headers : sequence of ProgramHeader
        The notes first.

    Returns
    -------
    bytes
        From the start of the file on.
    """
    elf = ELF64
    many = len(headers) >= PN_XNUM
    sections = elf.header.size + len(headers) * elf.program.size if many else 0
    head = elf.header.pack(
        *(_ident(elf), _ET_CORE, machine, 1, 0, elf.header.size, sections, 0),
        *(elf.header.size, elf.program.size, PN_XNUM if many else len(headers)),
        *(elf.section.size if many else 0, int(many), 0),
    )
    tail = elf.pack_section(info=len(headers)) if many else b""
    return head + b"".join(map(elf.pack_program, headers)) + tail


def qemu_head_length(elf: ElfClass, count: int) -> int:
    """Return the length of what `pack_qemu` puts in front, by number of program headers."""
    return elf.header.size + 2 * elf.section.size + count * elf.program.size


def pack_qemu(
    elf: ElfClass, machine: int, headers: Sequence[ProgramHeader], end: int
) -> tuple[bytes, bytes]:
    """Return head and tail of the file as QEMU 10 lays them out.

    Two section headers follow the ELF header, the program headers come behind them, and
    the names of the sections end the file.  QEMU gives its ELF header a length of 8.

    Parameters
    ----------
    elf : ElfClass
        Word size.
    machine : int
        e_machine.
    headers : sequence of ProgramHeader
        The notes first.
    end : int
        Where the last segment ends in the file.

    Returns
    -------
    (bytes, bytes)
        For the start of the file, and for `end`.
    """
    many = len(headers) >= PN_XNUM
    head = elf.header.pack(
        *(_ident(elf), _ET_CORE, machine, 1, 0),
        *(elf.header.size + 2 * elf.section.size, elf.header.size, 0),
        *(8, elf.program.size, PN_XNUM if many else len(headers), elf.section.size, 2, 1),
    )
    first = elf.pack_section(info=len(headers) if many else 0)
    second = elf.pack_section(name=1, kind=SHT_STRTAB, offset=end, length=len(_NAMES))
    return head + first + second + b"".join(map(elf.pack_program, headers)), _NAMES


def _ident(elf: ElfClass) -> bytes:
    return b"\x7fELF" + bytes([elf.mark, 1, 1])
