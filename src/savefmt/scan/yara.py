"""Rules of YARA over the guest's memory, by YARA-X."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from savefmt.errors import ImageIOError, MissingPackageError, UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.scan.results import Hit
from savefmt.scan.search import CONTEXT, Places
from savefmt.scan.windows import Memory, Reach, Window

OVERLAP = 64 << 10
"""How far beyond its stretch a window is shown to the rules."""

RULES_LIMIT = 64 << 20
SECONDS_A_WINDOW = 60
_SUFFIXES = (".yar", ".yara")


def compile_rules(*paths: StrPath, variables: Mapping[str, str] | None = None) -> Any:
    """Read rules.

    Parameters
    ----------
    *paths : str or os.PathLike
        Files of YARA rules, which may not include others, and folders: of these all files
        whose names end in ``.yar`` or ``.yara``.  Rules of two files may have one name.
    variables : mapping of str to str, optional
        What rules use without saying what it is: ``true``, ``false``, a number, or text.

    Returns
    -------
    object
        For `search_rules`.

    Raises
    ------
    UnsupportedError
        If YARA-X is not installed.
    ValueError
        If these are not rules, or there are none.
    ImageIOError
        If a file cannot be read.
    """
    yara_x = _library()
    compiler = yara_x.Compiler()
    compiler.enable_includes(False)
    left = RULES_LIMIT
    try:
        for name, value in (variables or {}).items():
            compiler.define_global(name, _value(value))
        for path in _files(paths):
            source = _read(path, left)
            left -= len(source)
            compiler.new_namespace(os.fspath(path))
            compiler.add_source(source, origin=os.fspath(path))
    except yara_x.CompileError as error:
        raise ValueError(str(error)) from error
    return compiler.build()


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _files(paths: Iterable[StrPath]) -> Iterator[StrPath]:
    """Yield the files of rules, those of a folder in the order of their names."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(_SUFFIXES)
        )
        if not found:
            raise ValueError(
                f"{os.fspath(path)}: this is not a file of rules ({', '.join(_SUFFIXES)})"
            )
        yield from found


def _read(path: StrPath, limit: int) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            source = file.read(limit + 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: rules are UTF-8 text") from error
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    if len(source) > limit:
        raise ValueError(f"{os.fspath(path)}: more than {RULES_LIMIT >> 20} MiB of rules")
    return source


def search_rules(
    image: SaveImage,
    rules: Any,
    *,
    blocks: Sequence[str] | None = None,
    context: int = CONTEXT,
    max_count: int | None = None,
    places: Places | None = None,
    memory: Memory | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[Hit]:
    """Look for the strings of rules that hold.

    A rule sees each window of 1 MiB and what follows it, as YARA sees the pieces of a process:
    `filesize` and counts of strings concern a window, and strings far from each other may be in
    two windows.  Only stretches of data are looked at.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    rules : object
        What `compile_rules` returned.
    blocks, context, max_count, places, memory, io, progress
        As for `savefmt.scan.search.search`.

    Yields
    ------
    Hit
        One for each string found, named ``rule $string``.
    """
    places = places or Places(image)
    memory = memory or Memory(image, blocks, io=io, progress=progress)
    return islice(_hits(memory, rules, context, places), max_count)


def _hits(memory: Memory, rules: Any, context: int, places: Places) -> Iterator[Hit]:
    yara_x = _library()
    local = threading.local()

    def work(window: Window) -> list[Hit]:
        if not hasattr(local, "scanner"):
            local.scanner = yara_x.Scanner(rules)  # each thread needs its own
            local.scanner.set_timeout(SECONDS_A_WINDOW)
        try:
            results = local.scanner.scan(window.data)
        except yara_x.TimeoutError as error:
            raise UnsupportedError(
                f"the rules took more than {SECONDS_A_WINDOW} s for 1 MiB of memory, in "
                f"{window.stretch.block!r} at {window.stretch.start:#x}; make them simpler"
            ) from error
        return sorted(_of_window(window, results.matching_rules, context), key=_place)

    for found in memory.each(work, Reach(lead=context, tail=OVERLAP, margin=OVERLAP)):
        for hit in found:
            physical = places.physical(hit.block, hit.offset)
            yield Hit(
                hit.pattern,
                hit.block,
                hit.offset,
                hit.length,
                physical,
                places.virtual(hit.block, hit.offset, physical),
                hit.data,
                hit.before,
                hit.after,
            )


def _of_window(window: Window, rules: Any, context: int) -> Iterator[Hit]:
    """Yield what begins in the window itself: the next one finds the rest."""
    for rule in rules:
        for pattern in rule.patterns:
            for match in pattern.matches:
                start, end = match.offset, match.offset + match.length
                if not window.stretch.start <= window.base + start < window.stretch.end:
                    continue
                yield Hit(
                    f"{rule.identifier} {pattern.identifier}",
                    window.stretch.block,
                    window.base + start,
                    match.length,
                    (),
                    (),
                    window.data[start:end],
                    window.data[max(start - context, 0) : start],
                    window.data[end : end + context],
                )


def _place(hit: Hit) -> tuple[int, str]:
    return hit.offset, hit.pattern


def _library() -> Any:
    try:
        import yara_x
    except ImportError as error:
        raise MissingPackageError("search --yara", "yara-x", "scan") from error
    return yara_x
