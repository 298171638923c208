"""The rows of what looks inside: exports against cp, searches against the tools for files."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

import peers
from cases import Case
from lab import Lab
from turns import Side, Turn, cool, process, savefmt

NEEDLE = "no such needle"
EXPRESSION = "no s[u]ch +needle"
_FOUND_OR_NOT = (0, 1)


def _export(form: str, format: str) -> Callable[[Lab], tuple[Side, Side]]:
    """The copy reads the result, which lies on the disk as densely as the image does."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        source = lab.main_sparse() if form == "sparse" else lab.main_raw()
        result = lab.folder / f"result.{format}"
        if not result.exists():
            savefmt("export", source, result, "-f", format)
        ours = Side(lambda: savefmt("export", source, lab.out, "-f", format), [source], [lab.out])
        theirs = Side(lambda: peers.cp_sparse(result, lab.other), [result], [lab.other])
        return ours, theirs

    return sides


def _scan(
    form: str, words: tuple[str, ...], peer: tuple[str, ...], *, texts: int = 0
) -> Callable[[Lab], tuple[Side, Side]]:
    """Both sides read from the page cache, on one core; for `texts` both take a file with -f."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        listed = ("-f", os.fspath(_texts(lab, texts))) if texts else ()
        data = 2 * lab.scale.codec_data
        sparse = lab.sparse(data, data, compressible=True)
        source: Path = sparse if form == "sparse" else lab.raw(sparse)
        command, *options = words
        ours = _ours(source, command, *options, *listed)
        theirs = Side(lambda: process(*peer, *listed, source, accept=_FOUND_OR_NOT))
        for side in (ours, theirs):
            side.go()  # fills the page cache, and does not count
        return ours, theirs

    return sides


def _mounted(form: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Both read from the disk; mounting itself is not in the clock, it looks through memory."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        source = lab.main_sparse() if form == "sparse" else lab.main_raw()
        result = lab.folder / "result.elf"
        if not result.exists():
            savefmt("export", source, result, "-f", "elf")
        return Side(lambda: _through(source)), Side(lambda: process("cat", result), [result])

    return sides


def _through(source: Path) -> Turn:
    from mounting import mounted

    with mounted(source) as folder:
        cool(source)
        return process("cat", folder / "memory.elf")


def _cannot_mount(lab: Lab) -> str | None:
    from mounting import lack

    return lack() or None


def _ours(source: Path, command: str, *options: str) -> Side:
    words = ("--no-direct", "-T1", *options)
    return Side(lambda: savefmt(command, source, *words, accept=_FOUND_OR_NOT))


def _texts(lab: Lab, count: int) -> Path:
    """Words of 6 to 14 small letters, none of which memory has but by chance."""
    path = lab.folder / f"texts-{count}"
    dice = random.Random(5)
    words = ("".join(dice.choices(ascii_lowercase, k=dice.randint(6, 14))) for _ in range(count))
    path.write_text("\n".join(words) + "\n")
    return path


def _as_json(command: str, *options: str) -> Callable[[Lab], tuple[Side, Side]]:
    """The same command as JSON and as text."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        data = 2 * lab.scale.codec_data
        source = lab.sparse(data, data, compressible=True)
        ours, theirs = _ours(source, command, "-j", *options), _ours(source, command, *options)
        ours.go()  # fills the page cache, and does not count
        return ours, theirs

    return sides


_CP = "cp --sparse=always of the result, then sync"
_GREP = ("grep", "-c", "-a", "-F", NEEDLE)
_PERL = ("grep", "-c", "-a", "-P", EXPRESSION)
_CACHED = "page cache, 1 thread, with the start of Python"

LOOKING = (
    *(
        Case(
            f"export-{format}-{form}",
            f"export {format} from {form}",
            _CP,
            1.1,
            _export(form, format),
            ("cp", "sync"),
        )
        for format in ("raw", "elf")
        for form in ("sparse", "raw")
    ),
    *(
        Case(
            f"mount-{form}",
            f"cat of memory.elf in a mounted {form}",
            "cat of the exported file",
            2.0,
            _mounted(form),
            ("cat", "umount"),
            ready=_cannot_mount,
        )
        for form in ("sparse", "raw")
    ),
    Case(
        "search-sparse",
        "search for a text, sparse",
        "grep -c -a -F of the file",
        1.5,
        _scan("sparse", ("search", "-c", NEEDLE), _GREP),
        ("grep",),
        note=_CACHED,
    ),
    Case(
        "search-raw",
        "search for a text, raw",
        "grep -c -a -F of the file",
        3.0,
        _scan("raw", ("search", "-c", NEEDLE), _GREP),
        ("grep",),
        note=f"{_CACHED}; grep misses matches that extend over two pages",
    ),
    Case(
        "search-regex",
        "search --regex, sparse",
        "grep -c -a -P of the file",
        3.0,
        _scan("sparse", ("search", "-c", "--regex", EXPRESSION), _PERL),
        ("grep",),
        note=_CACHED,
    ),
    *(
        Case(
            f"search-{count}",
            f"search for {count} texts, sparse",
            "grep -c -a -F -f of the file",
            0.4,
            _scan("sparse", ("search", "-c"), ("grep", "-c", "-a", "-F"), texts=count),
            ("grep",),
            note=_CACHED,
        )
        for count in (100, 1000)
    ),
    Case(
        "search-json",
        "search -j, a million matches",
        "the same as text",
        2.0,
        _as_json("search", "--max-count=1000000", "th"),
        note=_CACHED,
    ),
    Case(
        "strings",
        "strings, sparse",
        "strings -a -t x of the file",
        0.4,
        _scan("sparse", ("strings",), ("strings", "-a", "-t", "x")),
        ("strings",),
        note=_CACHED,
    ),
    Case(
        "strings-json",
        "strings -j, sparse",
        "the same as text",
        2.0,
        _as_json("strings"),
        note=_CACHED,
    ),
    Case(
        "stats",
        "stats, sparse",
        "sha256sum of the file",
        0.5,
        _scan("sparse", ("stats",), ("sha256sum",)),
        ("sha256sum",),
        note=f"{_CACHED}; two passes, one for sums and one for entropy",
    ),
    Case(
        "hash",
        "hash of all memory, sparse",
        "sha256sum of the file",
        1.0,
        _scan("sparse", ("hash",), ("sha256sum",)),
        ("sha256sum",),
        note=_CACHED,
    ),
)
