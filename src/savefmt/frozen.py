"""Frozen dataclasses that are quick to define.

The standard library writes the methods of every dataclass as text and compiles them, which
takes 0.4 ms a class, and 6 ms before the first: together that was a quarter of ``savefmt
info``. The classes here share methods that were written once.  Rarely used features come from
the standard library's dataclass of the same fields when they are first used. So
`dataclasses.fields`, `asdict`, `replace` and `inspect.signature` work as on any other
dataclass.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:  # in use they differ from the standard library's by their speed alone
    from collections.abc import Callable
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
    from typing import Any, NoReturn


class _Frozen:
    """The methods of all frozen dataclasses."""

    __slots__ = ()
    if TYPE_CHECKING:  # else `typing.get_type_hints` of one of ours would stumble over them
        __match_args__: tuple[str, ...]  # the names of the fields
        _options: dict[str, dict[str, Any]]  # what `dataclasses.field` would be told of each
        _defaults: dict[str, Any]
        _factories: dict[str, Callable[[], Any]]
        _content: Callable[[_Frozen], Any]
        _setters: tuple[Callable[[_Frozen, object], None], ...]  # past our own __setattr__
        _has_rules: bool

    def __init__(self, *given: Any, **named: Any) -> None:
        setters = self._setters
        if named or len(given) != len(setters):
            given = self._complete(given, named)
        for put, value in zip(setters, given):  # noqa: B905  of one length, and hot
            put(self, value)
        if self._has_rules:
            self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values, in a class that has rules for them."""

    @classmethod
    def _complete(cls, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values of all fields in their order."""
        rest = cls.__match_args__[len(given) :]
        values = cls._defaults | named if named else cls._defaults
        if cls._factories:
            values = {name: make() for name, make in cls._factories.items()} | values
        try:
            found = given + tuple([values[name] for name in rest])
        except KeyError:
            found = ()
        if len(found) != len(cls.__match_args__) or (named and not named.keys() <= set(rest)):
            import inspect

            inspect.signature(cls).bind(*given, **named)  # raises TypeError with the reason
        return found

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._content(self) == self._content(other))

    def __hash__(self) -> int:
        return hash(self._content(self))

    def __repr__(self) -> str:
        cls: Any = type(self)
        text: str = _standard(cls).__repr__(self)
        return text

    def __setattr__(self, name: str, value: object) -> None:
        _refuse(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        _refuse(f"cannot delete field {name!r}")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])


def _refuse(message: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(message)


@cache
def _standard(cls: Any) -> Any:
    """Return the standard library's dataclass with the fields of one of ours."""
    import dataclasses
    import inspect

    fields = [
        (name, cls.__annotations__[name], dataclasses.field(**options))
        for name, options in cls._options.items()
    ]
    made: Any = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
    made.__signature__ = inspect.signature(made)
    return made


class _Borrowed:
    """A class attribute that is the standard library's, once someone asks."""

    def __init__(self, name: str, cls: Any) -> None:
        self.name = name
        self.cls = cls

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(_standard(self.cls), self.name)


class _Options(dict[str, object]):
    """What `field` was told."""


def _make(cls: type) -> Any:
    """Make a new class, with slots for the annotations and with the methods above."""
    if cls.__bases__ != (object,):
        raise TypeError(f"{cls.__name__}: a frozen dataclass of ours has no base class")
    content = {
        name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")
    }
    options: dict[str, dict[str, Any]] = {}
    for name, kind in cls.__annotations__.items():
        if kind.startswith("ClassVar"):
            continue
        told = content.pop(name, _Options())
        options[name] = told if isinstance(told, _Options) else {"default": told}
    names = tuple(options)
    content |= {"__slots__": names, "__match_args__": names, "_options": options}
    made: Any = type(cls.__name__, (_Frozen,), content)
    made.__qualname__ = cls.__qualname__
    made._defaults = {n: o["default"] for n, o in options.items() if "default" in o}
    made._factories = {
        n: o["default_factory"] for n, o in options.items() if "default_factory" in o
    }
    made._has_rules = "__post_init__" in content
    made._content = attrgetter(*names)
    made._setters = tuple([getattr(made, name).__set__ for name in names])
    for name in ("__dataclass_fields__", "__dataclass_params__", "__signature__"):
        setattr(made, name, _Borrowed(name, made))
    return made


if not TYPE_CHECKING:

    def dataclass(*, frozen, slots):
        """Do what ``dataclasses.dataclass(frozen=True, slots=True)`` does, in less time."""
        if not (frozen and slots):
            raise TypeError("a dataclass of another kind is the standard library's")
        return _make

    def field(**options):
        """Return the arguments for `dataclasses.field` that describe a field."""
        return _Options(options)

    def replace(value, /, **changes):
        """Return a copy of a value, with changes."""
        return type(value)(**{n: getattr(value, n) for n in value.__match_args__} | changes)

    def asdict(value):
        """Return a value as a dictionary, and so all values in it."""
        if isinstance(value, _Frozen):
            return {name: asdict(getattr(value, name)) for name in value.__match_args__}
        if isinstance(value, (list, tuple)):
            return type(value)(map(asdict, value))
        if isinstance(value, dict):
            return {asdict(key): asdict(item) for key, item in value.items()}
        return value
