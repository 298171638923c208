"""A command line whose library answers from a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest

import savefmt
from savefmt.model import MapExtent

Answer = Any  # what a library function returns, or the exception that it raises


class FakeLibrary:
    """Stands in for the library's functions and notes how they were called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._patch = patch

    def answer(self, name: str, *answers: Answer) -> None:
        """Let function `name` give these answers, one a call."""
        self._patch.setitem(vars(savefmt), name, self.function(*answers))

    def answer_edit(self, **answers: Answer) -> None:
        """Do the same for functions of `savefmt.edit`; a list means several calls."""
        functions = {
            name: self.function(*(answer if isinstance(answer, list) else [answer]))
            for name, answer in answers.items()
        }
        self._patch.setitem(vars(savefmt), "edit", SimpleNamespace(**functions))

    def answer_open(self, *extents: MapExtent | Exception) -> None:
        """Let `savefmt.open` give an image with these extents."""
        self._patch.setitem(vars(savefmt), "open", lambda path: FakeImage(extents))

    def function(self, *answers: Answer) -> Callable[..., Any]:
        """Return a function that gives these answers."""
        left = iter(answers)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((args, kwargs))
            answer = next(left)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return called


class FakeImage:
    """An open image that knows its extents and nothing else."""

    def __init__(self, extents: tuple[MapExtent | Exception, ...]) -> None:
        self._extents = extents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def extents(self, progress: object = None) -> Iterator[MapExtent]:
        """Yield the extents; raise what is an error among them."""
        for extent in self._extents:
            if isinstance(extent, Exception):
                raise extent
            yield extent


class Outcome(SimpleNamespace):
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
