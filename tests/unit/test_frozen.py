"""Our frozen dataclasses against the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from savefmt import frozen
from savefmt.model import IOOptions, RamBlock


@frozen.dataclass(frozen=True, slots=True)
class Ours:
    """A point with a name."""

    x: int
    y: int = 2
    names: list[str] = frozen.field(default_factory=list)
    secret: str = frozen.field(default="s", repr=False)
    DIMENSIONS: ClassVar[int] = 2

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """A point with a name."""

    x: int
    y: int = 2
    names: list[str] = dataclasses.field(default_factory=list)
    secret: str = dataclasses.field(default="s", repr=False)
    DIMENSIONS: ClassVar[int] = 2

    @property
    def total(self) -> int:
        return self.x + self.y


def replaced(value: Any) -> list[str]:
    both = dataclasses.replace(value, y=9), frozen.replace(value, y=9)
    return [repr((copied.x, copied.y, copied.names, copied.secret)) for copied in both]


WAYS: list[Callable[[Any], object]] = [
    lambda kind: repr(kind(1)).replace(kind.__name__, ""),
    lambda kind: repr(kind(1, y=5)).replace(kind.__name__, ""),
    lambda kind: dataclasses.asdict(kind(1, 2, ["a"])),
    lambda kind: dataclasses.astuple(kind(1)),
    lambda kind: repr(kind(**dataclasses.asdict(kind(1)))).replace(kind.__name__, ""),
    lambda kind: [(f.name, f.type, f.repr) for f in dataclasses.fields(kind)],
    dataclasses.is_dataclass,
    lambda kind: dataclasses.is_dataclass(kind(1)),
    lambda kind: str(inspect.signature(kind)),
    lambda kind: inspect.getdoc(kind),
    lambda kind: replaced(kind(1)),
    lambda kind: kind.__match_args__,
    lambda kind: (kind(1) == kind(1, 2), kind(1) == kind(2), kind(1) == 1),
    lambda kind: (kind(1).total, kind.DIMENSIONS, kind(1).secret),
    lambda kind: kind(1).names is kind(1).names,
    lambda kind: hasattr(kind(1), "__dict__"),
    lambda kind: copy.deepcopy(kind(1, 2, ["a"])) == kind(1, 2, ["a"]),
    lambda kind: pickle.loads(pickle.dumps(kind(1, 3))) == kind(1, 3),
]


@pytest.mark.parametrize("way", WAYS)
def test_they_look_alike(way: Callable[[Any], object]) -> None:
    assert way(Ours) == way(Theirs)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda kind: kind(),
        lambda kind: kind(y=1),
        lambda kind: kind(1, x=1),
        lambda kind: kind(1, z=1),
        lambda kind: kind(1, 2, [], "s", 5),
        lambda kind: frozen.replace(kind(1), z=1),
        lambda kind: hash(kind(1)),
        lambda kind: setattr(kind(1), "x", 2),
        lambda kind: delattr(kind(1), "x"),
    ],
)
def test_they_refuse_alike(misuse: Callable[[Any], object]) -> None:
    with pytest.raises((TypeError, AttributeError)) as theirs:
        misuse(Theirs)
    with pytest.raises(theirs.type):
        misuse(Ours)


def test_ours_can_be_extended_by_the_standard_library() -> None:
    @dataclasses.dataclass(frozen=True)
    class Named(RamBlock):
        label: str = "?"

    block = Named("pc.ram", 1 << 20, 4096, label="main")

    assert (block.page_count, block.label, block.present) == (256, "main", None)
    assert [field.name for field in dataclasses.fields(block)][-1] == "label"


def test_rules_hold_for_changed_copies_too() -> None:
    with pytest.raises(ValueError, match="threads"):
        frozen.replace(IOOptions(), threads=65)


def test_dictionaries_reach_values_inside_values() -> None:
    block = RamBlock("pc.ram", 1 << 20, 4096)
    nested = Ours(1, names=[block])  # type: ignore[list-item]

    assert frozen.asdict(nested) == dataclasses.asdict(nested)


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(TypeError, match="standard library"):
        frozen.dataclass(frozen=False, slots=True)
    with pytest.raises(TypeError, match="base class"):

        @frozen.dataclass(frozen=True, slots=True)
        class _Child(Ours):
            more: int = 0
