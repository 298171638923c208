"""What is told of one image of many: a line of the journal."""

from __future__ import annotations

import enum
import json
from typing import Any, Self

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
    path : str
        The image, absolute.
    options : dict
        What else the verb takes; values that JSON can hold.
    named : bool
        Whether the caller named this file: one that was found in a folder and is no image
        is passed over.
    """

    verb: str
    path: str
    options: dict[str, Any]
    named: bool


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
    """

    verdict: Outcome
    reasons: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    domain: str = ""
    machine: str = ""
    result: Any = None

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read what JSON made of one."""
        lists = {name: tuple(values[name]) for name in ("reasons", "remedy")}
        return cls(**{**values, **lists, "verdict": Outcome(values["verdict"])})


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A line of the journal.

    Attributes
    ----------
    version : str
        Of savefmt.
    verb, options
        What was asked.
    host, path : str
        Where the image lies.
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
