"""Types that a kernel keeps of itself, read and made into drgn's."""

from __future__ import annotations

import struct

import drgn
import pytest
from kernelparts import BtfWriter, sample_types

from savefmt.errors import CorruptError
from savefmt.linux.btf import Btf, Kind, length_of
from savefmt.linux.btftypes import TypeFinder


@pytest.fixture
def program() -> drgn.Program:
    return drgn.Program(drgn.Platform(drgn.Architecture.X86_64))


def finder(program: drgn.Program, types: BtfWriter) -> TypeFinder:
    """Give a program the types."""
    made = TypeFinder(program, Btf(types.pack()))
    program.register_type_finder(
        "test", lambda _, kinds, name, file: made.find(kinds, name), enable_index=0
    )
    return made


def test_types_by_name(program: drgn.Program) -> None:
    finder(program, sample_types())

    node = program.type("struct node")
    assert node.size == 32
    assert [member.name for member in node.members or ()] == ["next", "comm", "flags"]
    assert node.member("next").type.type_name() == "struct node *"
    assert node.member("next").type.type.member("comm").bit_offset == 64
    assert node.member("comm").type.type_name() == "char [16]"
    assert node.member("flags").bit_field_size == 3
    assert node.member("flags").bit_offset == 192
    assert program.type("node_t").type.type_name() == "struct node"
    assert program.type("union either").size == 4
    assert program.type("_Bool").kind == drgn.TypeKind.BOOL
    with pytest.raises(LookupError):
        program.type("struct nobody")


def test_values_of_enumerations(program: drgn.Program) -> None:
    made = finder(program, sample_types())

    for name, value in (("OFF", 0), ("ON", 7), ("FAR", 1 << 32 | 1), ("BELOW", -1)):
        found = made.constant(name)
        assert found is not None
        assert found.value_() == value
    assert made.constant("nobody") is None


def test_types_of_a_module_go_on_where_the_kernels_end(program: drgn.Program) -> None:
    kernel = sample_types()
    base = finder(program, kernel)
    own = BtfWriter(count=kernel.count, first_string=len(kernel.strings))
    number = base.btf.find((Kind.STRUCT,), "node")
    assert number is not None
    own.add(4, "wrapper", 32, [kernel.name("comm"), number, 0], length=1)
    module = TypeFinder(program, Btf(own.pack(), base.btf), base)

    found = module.find({drgn.TypeKind.STRUCT}, "wrapper")

    assert found is not None
    assert found.member("comm").type.type_name() == "struct node"
    assert module.find({drgn.TypeKind.STRUCT}, "node") is None


def endless_typedef(types: BtfWriter) -> None:
    types.add(8, "endless", types.count)


def structure_in_itself(types: BtfWriter) -> None:
    types.add(4, "endless", 8, [0, types.count, 0], length=1)


def array_of_itself(types: BtfWriter) -> None:
    types.add(8, "endless", types.count + 1)
    types.add(3, "", 0, [types.count, 1, 2])


def huge_array(types: BtfWriter) -> None:
    types.add(8, "endless", types.count + 1)
    types.add(3, "", 0, [1, 1, 0xFFFF_FFFF])


def huge_structure(types: BtfWriter) -> None:
    types.add(4, "endless", 0xFFFF_FFFF)


def type_that_is_not_there(types: BtfWriter) -> None:
    types.add(8, "endless", 1 << 30)


def typedef_of_a_section(types: BtfWriter) -> None:
    types.add(8, "endless", types.count + 1)
    types.add(15, "data", 0)


def integer_of_no_size(types: BtfWriter) -> None:
    types.add(8, "endless", types.count + 1)
    types.add(1, "number", 0xFFFF, [0])


@pytest.mark.parametrize(
    "spoil",
    [
        *(endless_typedef, structure_in_itself, array_of_itself, huge_array, huge_structure),
        *(type_that_is_not_there, typedef_of_a_section, integer_of_no_size),
    ],
)
def test_types_that_cannot_be(program: drgn.Program, spoil: object) -> None:
    types = sample_types()
    assert callable(spoil)
    spoil(types)
    finder(program, types)

    with pytest.raises(CorruptError):
        for spelling in ("endless", "struct endless"):
            try:
                program.type(spelling)
            except LookupError:
                continue


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no BTF"),
        (sample_types().pack()[:-1], "are there"),
        (b"\x9f\xeb\x02" + sample_types().pack()[3:], "no BTF"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 7, 7, 1) + b"\0" * 8, "cut short"),
        (struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 1) + b"\x1f" * 13, "unknown kind"),
    ],
)
def test_what_is_no_btf(data: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        Btf(data)


def test_a_length_is_not_believed() -> None:
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 1 << 31, 1 << 31, 1 << 31)

    assert length_of(head) is None
    assert length_of(head[:10]) is None
