"""The result for one image of many: a line of the journal."""

from __future__ import annotations

import enum
import json
from typing import Any, Self

from savefmt.fleet.targets import Target
from savefmt.frozen import asdict, dataclass
from savefmt.model import SCHEMA

VERBS = ("audit", "check", "hash", "os", "search", "convert")


class Outcome(enum.StrEnum):
    """How an image fared, the gravest last."""

    GOOD = "good"
    FINDINGS = "findings"
    REFUSED = "refused"
    DAMAGED = "damaged"
    NOT_AN_IMAGE = "not-an-image"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """Work on one image.

    Attributes
    ----------
    verb : str
        One of `VERBS`.
    target : Target
        The image; a file that was found in a folder and is not an image is skipped.
    options : dict
        Further options of the verb; values that JSON can hold.
    """

    verb: str
    target: Target
    options: dict[str, Any]

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read what JSON made of one."""
        return cls(**{**values, "target": Target.from_values(values["target"])})


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker says of an image.

    Attributes
    ----------
    verdict : Outcome
        How it fared.
    reasons, remedy : tuple of str
        Why, and what helps.
    domain, machine : str
        Name and machine type of the guest, where they are known.
    result : object
        What the verb tells; values that JSON can hold.
    version : str
        Of the worker's savefmt; empty where no worker said it.
    """

    verdict: Outcome
    reasons: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    domain: str = ""
    machine: str = ""
    result: Any = None
    version: str = ""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read a record from JSON that any version of savefmt wrote."""
        found: dict[str, Any] = {n: values[n] for n in cls.__match_args__ if n in values}
        lists = {name: tuple(values[name]) for name in ("reasons", "remedy")}
        return cls(**{**found, **lists, "verdict": Outcome(values["verdict"])})


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A line of the journal.

    Attributes
    ----------
    version : str
        Of the savefmt that looked at the image.
    verb, options
        What was asked.
    host, path : str
        Where the image lies.
    local : bool
        Whether it is that host's own, and others may have another of that name.
    identity : tuple of int
        Inode, size and time of change in nanoseconds; empty where unknown.
    verdict, reasons, remedy, domain, machine, result
        As in `Told`.
    seconds : float
        That the last try took.
    tries : int
        How often it was tried.
    """

    version: str
    verb: str
    options: dict[str, Any]
    host: str
    path: str
    local: bool
    identity: tuple[int, ...]
    verdict: Outcome
    reasons: tuple[str, ...]
    remedy: tuple[str, ...]
    domain: str
    machine: str
    seconds: float
    tries: int
    result: Any

    def line(self) -> str:
        """Return it as one line of JSON, without a newline."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read such a line.

        Raises
        ------
        ValueError
            If it is none.
        """
        try:
            values = json.loads(line)
            found: dict[str, Any] = {name: values[name] for name in cls.__match_args__}
            wrong = [name for name, kind in _KINDS.items() if not isinstance(found[name], kind)]
            for name, kind in _LISTS.items():
                found[name] = tuple(found[name])
                wrong += [name for item in found[name] if not isinstance(item, kind)]
            wrong += [name for name, most in _MOST.items() if not 0 <= found[name] <= most]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        if wrong:
            raise ValueError(f"{wrong[0]} is of another kind")
        return cls(**{**found, "verdict": Outcome(found["verdict"])})


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("version", "verb", "host", "path", "verdict", "domain", "machine"), str),
    "options": dict,
    "local": bool,
    "seconds": (int, float),
    "tries": int,
}
_MOST = {"seconds": 1 << 40, "tries": (1 << 31) - 1}
"""No number is more, and none is NaN, which JSON in Python may have."""
_LISTS = {"identity": int, "reasons": str, "remedy": str}
