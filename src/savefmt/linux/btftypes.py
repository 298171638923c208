"""drgn types made from BTF, each at its first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from savefmt.errors import CorruptError
from savefmt.linux.btf import Btf, Kind, Record

if TYPE_CHECKING:
    import drgn

_DEPTH = 64
"""How far types may refer to types that are needed at once; the kernel's do some ten times."""

MAX_SIZE = 16 << 20
"""Bytes of a type: an object of it is read as a whole."""

_INTEGERS = {
    (1, True): "signed char",
    (1, False): "unsigned char",
    (2, True): "short",
    (2, False): "unsigned short",
    (4, True): "int",
    (4, False): "unsigned int",
    (8, True): "long",
    (8, False): "unsigned long",
}
_SIGNED, _BOOL = 1, 4
_NUMBER_SIZES = (1, 2, 4, 8, 16)
_POINTER = 8


class TypeFinder:
    """Finds types for a program.

    Parameters
    ----------
    program : drgn.Program
        That they are for.
    btf : Btf
        Where they come from.
    base : TypeFinder, optional
        For types of the kernel that those of a module refer to.
    """

    def __init__(self, program: drgn.Program, btf: Btf, base: TypeFinder | None = None) -> None:
        import drgn

        self._drgn = drgn
        self._program = program
        self._base = base
        self._made: dict[int, drgn.Type] = {}
        self._depth = 0
        self.btf = btf
        kinds = drgn.TypeKind
        self._kinds = {
            kinds.INT: (Kind.INT,),
            kinds.BOOL: (Kind.INT,),
            kinds.FLOAT: (Kind.FLOAT,),
            kinds.STRUCT: (Kind.STRUCT,),
            kinds.UNION: (Kind.UNION,),
            kinds.ENUM: (Kind.ENUM, Kind.ENUM64),
            kinds.TYPEDEF: (Kind.TYPEDEF,),
        }

    def find(self, kinds: Any, name: str) -> drgn.Type | None:
        """Return a type by its name, None if this BTF does not have it."""
        for kind in kinds:
            number = self.btf.find(self._kinds.get(kind, ()), name)
            if number is not None:
                found = self.type(number)
                if found.kind == kind:
                    return found
        return None

    def constant(self, name: str) -> drgn.Object | None:
        """Return a value of an enumeration by its name."""
        number = self.btf.enumeration_of(name)
        if number is None:
            return None
        kind = self.type(number)
        for item in kind.enumerators or ():
            if item.name == name:
                return self._drgn.Object(self._program, kind, value=item.value)
        return None

    def type(self, number: int) -> drgn.Type:
        """Return a type by its number.

        Parameters
        ----------
        number : int
            As BTF counts them.

        Returns
        -------
        drgn.Type
            The same one each time.

        Raises
        ------
        CorruptError
            If it cannot be.
        """
        if self._base and number < self._base.btf.count:
            return self._base.type(number)
        if not number:
            return self._program.void_type()
        found = self._made.get(number)
        if found is None:
            self._depth += 1
            try:
                if self._depth > _DEPTH:
                    raise CorruptError(
                        f"type {number} depends on itself, or on too many other types"
                    )
                found = self._made[number] = self._make(number)
            except (ValueError, TypeError, OverflowError) as error:
                raise CorruptError(f"type {number} is not valid: {error}") from error
            finally:
                self._depth -= 1
        return found

    def _make(self, number: int) -> drgn.Type:
        record = self.btf.record(number)
        make = self._MAKERS.get(record.kind)
        if make is None:
            raise CorruptError(f"type {number} is not a type but a {record.kind.name.lower()}")
        return make(self, number, record)

    def _integer(self, number: int, record: Record) -> drgn.Type:
        ((word,),) = self.btf.words(number, record, 1)
        if record.value not in _NUMBER_SIZES:
            raise CorruptError(f"type {number} is an integer of {record.value} bytes")
        if word >> 24 & _BOOL:
            return self._program.bool_type(record.name, record.value)
        return self._program.int_type(record.name, record.value, bool(word >> 24 & _SIGNED))

    def _float(self, number: int, record: Record) -> drgn.Type:
        return self._program.float_type(record.name, record.value)

    def _pointer(self, number: int, record: Record) -> drgn.Type:
        return self._program.pointer_type(self.type(record.value), _POINTER)

    def _array(self, number: int, record: Record) -> drgn.Type:
        ((item, _, count),) = self.btf.words(number, record, 3)
        kind = self.type(item)
        if not count:
            return self._program.array_type(kind)
        size = kind.size if hasattr(kind, "size") and kind.size else 1
        if count * size > MAX_SIZE:
            raise CorruptError(f"type {number} is an array of {count} items")
        return self._program.array_type(kind, count)

    def _structure(self, number: int, record: Record) -> drgn.Type:
        if record.value > MAX_SIZE:
            raise CorruptError(f"type {number} is a structure of {record.value} bytes")
        members, nameless = [], []
        for name, kind, offset, bits in self.btf.members(number, record):
            if not name:
                nameless.append(kind)
            maker: Callable[[], Any] = partial(self.type, kind)
            if bits:
                maker = partial(self._bit_field, kind, bits)
            members.append(self._drgn.TypeMember(maker, name or None, offset))
        # drgn looks for members in those without a name at once, and in theirs.
        for kind in nameless:
            self.type(kind)
        make = self._program.struct_type if record.kind is Kind.STRUCT else self._program.union_type
        return make(record.name or None, record.value, tuple(members))

    def _bit_field(self, kind: int, bits: int) -> drgn.Object:
        try:
            return self._drgn.Object(self._program, self.type(kind), bit_field_size=bits)
        except (ValueError, TypeError) as error:
            raise CorruptError(f"type {kind} has no bit field of {bits} bits: {error}") from error

    def _enumeration(self, number: int, record: Record) -> drgn.Type:
        name = record.name or None
        if not record.length:
            return self._program.enum_type(name)
        values = list(self.btf.values(number, record))
        signed = record.flag or any(value < 0 for _, value in values)
        spelling = _INTEGERS.get((record.value, signed))
        if spelling is None:
            raise CorruptError(f"type {number} is an enumeration of {record.value} bytes")
        integer = self._program.int_type(spelling, record.value, signed)
        items = tuple(self._drgn.TypeEnumerator(text, value) for text, value in values)
        return self._program.enum_type(name, integer, items)

    def _forward(self, number: int, record: Record) -> drgn.Type:
        return (self._program.union_type if record.flag else self._program.struct_type)(record.name)

    def _typedef(self, number: int, record: Record) -> drgn.Type:
        return self._program.typedef_type(record.name, self.type(record.value))

    def _qualified(self, number: int, record: Record) -> drgn.Type:
        qualifiers = self._drgn.Qualifiers
        added = {
            Kind.CONST: qualifiers.CONST,
            Kind.VOLATILE: qualifiers.VOLATILE,
            Kind.RESTRICT: qualifiers.RESTRICT,
        }[record.kind]
        kind = self.type(record.value)
        return kind.qualified(kind.qualifiers | added)

    def _same(self, number: int, record: Record) -> drgn.Type:
        return self.type(record.value)

    def _function(self, number: int, record: Record) -> drgn.Type:
        items = list(self.btf.words(number, record, 2))
        variadic = bool(items) and items[-1] == (0, 0)
        parameters = tuple(
            self._drgn.TypeParameter(partial(self.type, kind), self.btf.text(name) or None)
            for name, kind in (items[:-1] if variadic else items)
        )
        return self._program.function_type(self.type(record.value), parameters, variadic)

    _MAKERS: dict[Kind, Callable[[Any, int, Record], Any]] = {  # noqa: RUF012
        Kind.INT: _integer,
        Kind.FLOAT: _float,
        Kind.PTR: _pointer,
        Kind.ARRAY: _array,
        Kind.STRUCT: _structure,
        Kind.UNION: _structure,
        Kind.ENUM: _enumeration,
        Kind.ENUM64: _enumeration,
        Kind.FWD: _forward,
        Kind.TYPEDEF: _typedef,
        Kind.VOLATILE: _qualified,
        Kind.CONST: _qualified,
        Kind.RESTRICT: _qualified,
        Kind.FUNC: _same,
        Kind.FUNC_PROTO: _function,
        Kind.TYPE_TAG: _same,
    }
