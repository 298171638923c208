"""What a guest forges of its kernel ends in an error of ours, or in an answer."""

from __future__ import annotations

import contextlib

import drgn
from hypothesis import given
from hypothesis import strategies as st
from kernelparts import BASE, LAYOUTS, pack_kallsyms, sample_types

from savefmt.errors import SavefmtError
from savefmt.linux.btf import Btf
from savefmt.linux.btftypes import TypeFinder
from savefmt.linux.kallsyms import find

_SYMBOLS = [(BASE + 16 * number, f"tinit_{number:04}") for number in range(1024)]
_TABLES = {layout: pack_kallsyms(_SYMBOLS, layout) for layout in LAYOUTS}
_TYPES = sample_types().pack()

changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=20)


def changed(data: bytes, places: list[tuple[int, int]]) -> bytes:
    """Change some bytes."""
    made = bytearray(data)
    for at, value in places:
        made[at % len(made)] = value
    return bytes(made)


@given(places=changes)
def test_forged_types(places: list[tuple[int, int]]) -> None:
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    with contextlib.suppress(SavefmtError):
        types = TypeFinder(program, Btf(changed(_TYPES, places)))
        for number in range(types.btf.count):
            # TypeError: drgn's own word for a member of a type that has no size.
            with contextlib.suppress(SavefmtError, TypeError):
                found = types.type(number)
                if found.kind in (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION):
                    for member in found.members or ():
                        _ = member.type
                    with contextlib.suppress(LookupError):
                        found.member("comm")
        for name in ("ON", "FAR", "BELOW"):
            types.constant(name)


@given(layout=st.sampled_from(LAYOUTS), places=changes)
def test_forged_symbols(layout: str, places: list[tuple[int, int]]) -> None:
    symbols = find(changed(_TABLES[layout], places), BASE, {})

    if symbols is not None:
        for address, _, name in symbols:
            assert symbols.get(name) is not None
            assert symbols.at(address) is not None


@given(data=st.binary(max_size=400))
def test_anything_as_types(data: bytes) -> None:
    with contextlib.suppress(SavefmtError):
        Btf(data)
