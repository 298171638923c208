"""vCPUs whose fields are missing, negative, too long or of another kind: errors of ours alone."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from archguests import CODE, GUESTS

import savefmt
from savefmt.export.elf import class_of
from savefmt.export.notes import pack_notes
from savefmt.format.devicetree import Field, Struct, Value
from savefmt.frozen import replace
from savefmt.guest.arch.base import Vcpu
from savefmt.guest.arch.table import ARCHES
from savefmt.guest.mappings import Walk

ODD: tuple[Value, ...] = (-1, 1 << 70, (1 << 64) - 1, b"", b"x" * 99, (), (-1,) * 40, None)
ADDRESSES = (0, 0x1234, 1 << 31, 1 << 47, (1 << 64) - 1)


def variants(tree: Struct) -> Iterator[Struct]:
    """Yield the section with one field left out, or with an odd value in it."""
    for number, field in enumerate(tree.fields):
        before, behind = tree.fields[:number], tree.fields[number + 1 :]
        yield replace(tree, fields=before + behind)
        for value in ODD:
            odd: Field = replace(field, value=value)
            yield replace(tree, fields=(*before, odd, *behind))
    for number, part in enumerate(tree.subsections):
        others = tree.subsections[:number] + tree.subsections[number + 1 :]
        yield replace(tree, subsections=others)
        for inner in islice(variants(part), 60):
            yield replace(tree, subsections=(*others, inner))


@pytest.mark.parametrize("name", GUESTS)
def test_only_errors_of_ours(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(lzma.decompress((CODE / f"{name}.qemu.xz").read_bytes()))
    arch = ARCHES[name]
    assert arch.read is not None
    assert arch.tables is not None
    assert arch.form is not None
    assert arch.notes is not None
    with savefmt.open(path) as image:
        section = image.devices.find("cpu")
        assert section is not None
        tree, read = image.devices.tree(section), image.guest.physical.read
        for forged in variants(tree):
            with suppress(savefmt.SavefmtError):
                arch.fits(forged)
                registers = arch.read(Vcpu(0, forged, None, None, lambda _: None))
                with suppress(savefmt.SavefmtError):
                    pack_notes(class_of(arch.form(registers)), arch.notes, [registers])
                tables = arch.tables(registers, read, None)
                for address in ADDRESSES:
                    with suppress(savefmt.SavefmtError):
                        tables.translate(address)
                list(islice(Walk(tables).mappings(), 20))
