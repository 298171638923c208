"""The domain XML, read without trust: no DTD, no entities, bounded depth and width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.parsers import expat

from savefmt.errors import CorruptError
from savefmt.frozen import dataclass, field

MAX_DEPTH = 64
"""Elements inside one another; libvirt's own documents stay below 10."""
MAX_ATTRIBUTES = 256
"""Attributes of one element."""
MAX_ELEMENTS = 100_000
"""Elements of one document."""

# Scaled integers of libvirt's domain XML, in lower case (formatdomain, "memory").
_UNITS: dict[str, int] = {"b": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtpe", 1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


@dataclass(frozen=True, slots=True)
class Domain:
    """What the domain XML says about the guest; None where it says nothing legible.

    Attributes
    ----------
    name, uuid : str or None
        Identity.
    type : str or None
        Hypervisor, such as ``kvm`` or ``qemu``.
    machine : str or None
        Machine type, such as ``pc-q35-9.2``.
    emulator : str or None
        Path of the QEMU binary.  The image's author chose it: never run it without being asked.
    memory_kib : int or None
        Memory at boot, in KiB.
    """

    name: str | None
    uuid: str | None
    type: str | None
    machine: str | None
    emulator: str | None
    memory_kib: int | None


@dataclass(frozen=True, slots=True)
class Element:
    """An element with its path from the root; `pieces` join to its own text."""

    path: tuple[str, ...]
    attributes: dict[str, str]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text, without that of its children."""
        return "".join(self.pieces)


def parse_domain(xml: bytes, *, at: int = 0) -> Domain:
    """Read the few facts that identify a guest.

    Parameters
    ----------
    xml : bytes
        The document, UTF-8, without the NUL that ends it in an image.
    at : int
        Offset of the document in the file, added to the offset of every error.

    Returns
    -------
    Domain
        First occurrences win.

    Raises
    ------
    CorruptError
        If the document is not well-formed, not plain, or no domain.
    """
    return _domain(read_elements(xml, "domain", at, deepest=3))


def check_document(xml: bytes, root: str, *, at: int = 0) -> None:
    """Refuse a document that is not well-formed, not plain, or of another kind.

    Parameters
    ----------
    xml : bytes
        The document, UTF-8, without the NUL that ends it in an image.
    root : str
        Name that the outermost element must have: ``domain`` or ``cookie``.
    at : int
        Offset of the document in the file, added to the offset of every error.

    Raises
    ------
    CorruptError
        With the offset of the first offence.
    """
    read_elements(xml, root, at, deepest=0)


def read_elements(xml: bytes, root: str, at: int, *, deepest: int) -> list[Element]:
    """Return the elements of the outer `deepest` levels in document order.

    Parameters
    ----------
    xml : bytes
        The document, UTF-8, without the NUL that ends it in an image.
    root : str
        Name that the outermost element must have.
    at : int
        Offset of the document in the file, added to the offset of every error.
    deepest : int
        Elements deeper than this are checked only.

    Returns
    -------
    list of Element
        A parent before its children.

    Raises
    ------
    CorruptError
        If the document is not well-formed, not plain, or of another kind.
    """
    # The encoding is fixed here to keep the document from naming one of Python's codecs.
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    kept: list[Element] = []
    opened: list[Element | None] = []
    count = 0

    def refuse(problem: str) -> CorruptError:
        return CorruptError(
            f"the {root} XML {problem}; libvirt never writes that, so replace the document",
            offset=at + parser.CurrentByteIndex,
        )

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if not opened and name != root:
            raise refuse(f"begins with <{name[:40]}> instead of <{root}>")
        if len(opened) == MAX_DEPTH:
            raise refuse(f"nests deeper than {MAX_DEPTH} elements")
        if len(attributes) > MAX_ATTRIBUTES:
            raise refuse(f"has more than {MAX_ATTRIBUTES} attributes in one element")
        if count > MAX_ELEMENTS:
            raise refuse(f"has more than {MAX_ELEMENTS} elements")
        element = None
        if len(opened) < deepest:
            parent = opened[-1].path if opened and opened[-1] else ()
            element = Element((*parent, name), attributes)
            kept.append(element)
        opened.append(element)

    def text(data: str) -> None:
        if opened and (element := opened[-1]):
            element.pieces.append(data)

    def end(_name: str) -> None:
        opened.pop()

    def doctype(*_declaration: object) -> None:
        raise refuse("declares a document type, which could hide entities")

    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise CorruptError(
            f"the {root} XML is not well-formed: {expat.ErrorString(error.code)} in line "
            f"{error.lineno}; replace the document",
            offset=at + max(parser.ErrorByteIndex, 0),  # -1 for an empty document
        ) from error
    return kept


def groups(elements: Iterable[Element], path: tuple[str, ...]) -> Iterator[list[Element]]:
    """Yield each element with a path, and behind it all that is inside of it.

    Parameters
    ----------
    elements : iterable of Element
        As `read_elements` returns them.
    path : tuple of str
        From the root on.

    Yields
    ------
    list of Element
        The element comes first.
    """
    group: list[Element] = []
    for element in elements:
        inside = element.path[: len(path)] == path and len(element.path) > len(path)
        if group and not inside:
            yield group
            group = []
        if element.path == path:
            group = [element]
        elif group:
            group.append(element)
    if group:
        yield group


def children(group: Iterable[Element]) -> Iterator[list[Element]]:
    """Yield each child of the first element of a group, and behind it all that is inside of it."""
    first, *inside = group
    child: list[Element] = []
    for element in inside:
        if len(element.path) == len(first.path) + 1 and child:
            yield child
            child = []
        child.append(element)
    if child:
        yield child


def _domain(elements: list[Element]) -> Domain:
    def first(*path: str) -> Element | None:
        whole = ("domain", *path)
        return next((element for element in elements if element.path == whole), None)

    def words(element: Element | None) -> str | None:
        return (element.text.strip() or None) if element else None

    name, os_type = first("name"), first("os", "type")
    return Domain(
        name=name.text if name else None,  # libvirt keeps blanks in a name
        uuid=words(first("uuid")),
        type=elements[0].attributes.get("type"),
        machine=os_type.attributes.get("machine") if os_type else None,
        emulator=words(first("devices", "emulator")),
        memory_kib=_kibibytes(first("memory")),
    )


def _kibibytes(element: Element | None) -> int | None:
    if element is None:
        return None
    return kibibytes(element.text, element.attributes.get("unit"))


def kibibytes(number: str, unit: str | None) -> int | None:
    """Read one of libvirt's scaled integers.

    Parameters
    ----------
    number : str
        Decimal.
    unit : str or None
        As libvirt spells it; None means KiB.

    Returns
    -------
    int or None
        In KiB, rounded up as libvirt does; None where it is no such number.
    """
    factor = _UNITS.get((unit or "KiB").lower())
    if factor is None or not re.fullmatch(r"[0-9]{1,20}", number.strip()):
        return None
    return -(-int(number) * factor // 1024)


def integer(text: str | None) -> int | None:
    """Read a number as libvirt writes it, decimal or hexadecimal; None if it is not a number."""
    if text is None or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}", text.strip()):
        return None
    return int(text, 16 if text.strip().startswith("0x") else 10)
