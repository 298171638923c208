"""Types and symbols of kernel modules, which are next to their code in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.errors import CorruptError
from savefmt.linux.btf import MAX_LENGTH, Btf
from savefmt.linux.kallsyms import Symbols
from savefmt.linux.kernelmodules import module_items
from savefmt.linux.walks import error_types, list_items, note
from savefmt.linux.words import unpack_words

if TYPE_CHECKING:
    from savefmt.linux.kernel import Kernel

_SYMBOL_LENGTH = 24
_MAX_SYMBOLS = 1 << 18
_MAX_TEXT = 16 << 20
_MAX_BTF = MAX_LENGTH
"""Bytes of the types of all modules."""
_FUNCTION = 2


def module_types(kernel: Kernel) -> Iterator[Btf]:
    """Yield the types of each module, which go on where the kernel's end."""
    head = kernel.variable("btf_modules")
    if head is None or head.address_ is None:
        return
    left = _MAX_BTF
    for item in list_items(kernel, head.address_, "struct btf_module", "list", "types of modules"):
        try:
            content = item.btf[0].read_()
            length = content.data_size.value_()
            left -= length
            if left < 0:
                note(kernel, "types-long", "modules claim more types than can be")
                return
            yield Btf(kernel.memory.read(content.data.value_(), length), kernel.types.btf)
        except error_types():
            note(kernel, "types-damaged", f"types of the module at {item.address_:#x} are damaged")


def module_symbols(kernel: Kernel) -> Symbols:
    """Return the symbols of all modules."""
    names: list[str] = []
    addresses = array("Q")
    for item in module_items(kernel):
        try:
            table = item.kallsyms[0].read_()
            count = table.num_symtab.value_()
            if len(names) + count > _MAX_SYMBOLS:
                note(kernel, "symbols-long", "modules claim more symbols than can be")
                break
            data = kernel.memory.read(table.symtab.value_(), count * _SYMBOL_LENGTH)
            strings = table.strtab.value_()
            longest = max(unpack_words("I", data)[::6], default=0)
            if longest > _MAX_TEXT:
                raise CorruptError(f"a name at {longest:#x} of the module's strings")
            text = kernel.memory.read_sparse(strings, longest + 512)
        except error_types():
            note(kernel, "module-damaged", f"symbols of the module at {item.address_:#x} are lost")
            continue
        for at in range(0, len(data), _SYMBOL_LENGTH):
            name_at = int.from_bytes(data[at : at + 4], "little")
            name = text[name_at : text.find(b"\0", name_at, name_at + 512)]
            value = int.from_bytes(data[at + 8 : at + 16], "little")
            if name and value:
                kind = "t" if data[at + 4] & 15 == _FUNCTION else "d"
                names.append(kind + name.decode("ascii", "replace"))
                addresses.append(value)
    return Symbols(names, addresses)
