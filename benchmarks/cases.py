"""The rows of the table: what is compared with what, and the goal."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
from lab import GIB, Lab
from turns import Side, Turn, process, savefmt, savefmt_inside


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes
    ----------
    key : str
        Short name, for the command line.
    work, against : str
        What both sides do, in words.
    limit : float
        The goal: our time over theirs is at most this; with `rate`, their time over
        ours at least this.
    sides : callable
        Makes both sides of a lab, ours first.
    needs : tuple of str
        Programs.
    rate : bool
        The goal is a rate.
    turns : int
        Multiplies the turns, for what takes milliseconds.
    note : str
        What a reader should know.
    """

    key: str
    work: str
    against: str
    limit: float
    sides: Callable[[Lab], tuple[Side, Side]]
    needs: tuple[str, ...] = ()
    rate: bool = False
    turns: int = 1
    note: str = ""
    ready: Callable[[Lab], str | None] = lambda lab: None

    def obstacle(self, lab: Lab) -> str | None:
        """Why it cannot be measured here, None if it can."""
        return peers.missing(*self.needs) or self.ready(lab)

    @property
    def goal(self) -> str:
        """The limit in words."""
        return f"≥ {self.limit:g} of its rate" if self.rate else f"≤ {self.limit:g} of its time"


def _convert(lab: Lab, source: Path, form: str, *options: str, inside: bool = False) -> Side:
    run = savefmt_inside if inside else savefmt
    return Side(lambda: run("convert", source, lab.out, "-O", form, *options), [source], [lab.out])


def _read(source: Path, *words: str) -> Side:
    return Side(lambda: savefmt_inside(words[0], source, *words[1:]), [source])


def _dd(lab: Lab, source: Path) -> Side:
    return Side(lambda: peers.dd(source, lab.other), [source], [lab.other])


def _fio(source: Path, target: Path | None = None) -> Side:
    writes = [target] if target else []
    return Side(lambda: peers.fio(source, target), [source], writes)


def _raw_to_sparse(lab: Lab) -> tuple[Side, Side]:
    raw = lab.main_raw()
    return _convert(lab, raw, "sparse"), _dd(lab, raw)


def _raw_to_sparse_fio(lab: Lab) -> tuple[Side, Side]:
    raw = lab.main_raw()
    return _convert(lab, raw, "sparse", inside=True), _fio(raw, lab.other)


def _sparse_to_raw(lab: Lab) -> tuple[Side, Side]:
    return _convert(lab, lab.main_sparse(), "raw"), _dd(lab, lab.main_raw())


def _sparse_to_raw_fio(lab: Lab) -> tuple[Side, Side]:
    ours = _convert(lab, lab.main_sparse(), "raw", inside=True)
    return ours, _fio(lab.main_raw(), lab.other)


def _sparse_to_sparse(lab: Lab) -> tuple[Side, Side]:
    sparse = lab.main_sparse()
    theirs = Side(lambda: peers.cp(sparse, lab.other), [sparse], [lab.other])
    return _convert(lab, sparse, "sparse", "--save-version", "3"), theirs


def _clone(kind: str, *words: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Both sides share all pages with the source, on a file system that can.

    Theirs does so twice, and starts our program once without work.
    """

    def sides(lab: Lab) -> tuple[Side, Side]:
        image = lab.on(kind, lab.main_sparse())
        out, others = image.with_name("out"), [image.with_name(f"other{i}") for i in (1, 2)]

        def ours() -> Turn:
            return savefmt(words[0], image, out, *words[1:])

        def theirs() -> Turn:
            copied = peers.one_after_the_other(*(peers.reflink(image, other) for other in others))
            unmade = image.with_name("unmade")
            started = savefmt(words[0], image, unmade, *words[1:], "--dry-run")
            return peers.one_after_the_other(copied, started)

        return Side(ours, [image], [out]), Side(theirs, [image], others)

    return sides


def _mounts(kind: str) -> Callable[[Lab], str | None]:
    def ready(lab: Lab) -> str | None:
        from filesystems import obstacle

        return obstacle(kind)

    return ready


def _in_place(lab: Lab) -> tuple[Side, Side]:
    sparse = lab.main_sparse()
    versions = itertools.cycle("32")
    change = ("-F", "-O", "sparse", "--save-version")
    ours = Side(lambda: savefmt("convert", sparse, sparse, *change, next(versions)))
    theirs = Side(lambda: peers.cp(sparse, lab.other), [sparse], [lab.other])
    return ours, theirs


def _reads(form: str, *words: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Both sides read every page; fio reads the raw image, which has no holes."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        source = lab.main_sparse() if form == "sparse" else lab.main_raw()
        return _read(source, *words), _fio(lab.main_raw())

    return sides


def _compare(lab: Lab) -> tuple[Side, Side]:
    """Both sides read both images; fio the raw one twice, as in the rows above."""
    sparse, raw = lab.main_sparse(), lab.main_raw()
    ours = Side(lambda: savefmt_inside("compare", raw, sparse), [raw, sparse])
    theirs = Side(lambda: peers.one_after_the_other(peers.fio(raw), peers.fio(raw)), [raw])
    return ours, theirs


def _in_memory(lab: Lab) -> tuple[Side, Side]:
    raw = lab.into_memory(lab.main_raw())
    out, other = lab.memory / "out", lab.memory / "other"
    ours = Side(lambda: savefmt("convert", raw, out, "-O", "sparse", "-T", "1"), [], [out])
    return ours, Side(lambda: process("cp", raw, other), [], [other])


def _room_in_memory(lab: Lab) -> str | None:
    if not lab.memory.is_dir():
        return f"no folder {lab.memory}"
    free = shutil.disk_usage(lab.memory).free
    return None if free > 4 * lab.scale.data else "too little memory"


def _decode(codec: str, *, members: bool = False) -> Callable[[Lab], tuple[Side, Side]]:
    def sides(lab: Lab) -> tuple[Side, Side]:
        make = lab.members if members else lab.packed
        source = make(codec, lab.scale.codec_data)
        theirs = Side(lambda: process(codec, "-dc", source), [source])
        return _convert(lab, source, "sparse"), theirs

    return sides


def _encode(form: str) -> Callable[[Lab], tuple[Side, Side]]:
    def sides(lab: Lab) -> tuple[Side, Side]:
        data = lab.scale.codec_data
        sparse = lab.sparse(2 * data, data, compressible=True)
        raw = lab.raw(sparse)
        theirs = Side(lambda: process("zstd", "-c", "-T0", raw, to=lab.other), [raw], [lab.other])
        return _convert(lab, sparse if form == "sparse" else raw, "zstd"), theirs

    return sides


def _info(lab: Lab) -> tuple[Side, Side]:
    sparse = lab.main_sparse()
    disk = lab.folder / "disk.qcow2"
    if not disk.exists():
        process("qemu-img", "create", "-q", "-f", "qcow2", disk, "1G")
    return Side(lambda: savefmt("info", sparse)), Side(lambda: process("qemu-img", "info", disk))


def _growth(*words: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Ours is the large guest, theirs the small one with the same data."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        scale = lab.scale
        large = lab.sparse(scale.large_ram, scale.growth_data)
        small = lab.sparse(scale.small_ram, scale.growth_data)
        return _work(lab, large, words), _work(lab, small, words)

    return sides


def _fragments(pattern: str, form: str, *words: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Ours is the guest in fragments, theirs the dense one with as many pages."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        data = lab.scale.fragment_data
        images = lab.sparse(_SPREAD[pattern] * data, data, pattern), lab.sparse(data, data)
        broken, dense = (lab.raw(i) for i in images) if form == "raw" else images
        return _work(lab, broken, words), _work(lab, dense, words)

    return sides


def _page_reads(pattern: str) -> Callable[[Lab], tuple[Side, Side]]:
    """Both sides read the pages of a guest in fragments, fio the very same ones."""

    def sides(lab: Lab) -> tuple[Side, Side]:
        data = lab.scale.fragment_data
        spread = _SPREAD[pattern]
        image, gap = lab.sparse(spread * data, data, pattern), (spread - 1) * peers.PAGE
        theirs = Side(lambda: peers.fio_pages(image, gap, data // peers.PAGE), [image])
        return _read(image, *_NULL), theirs

    return sides


def _work(lab: Lab, image: Path, words: Sequence[str]) -> Side:
    target = [lab.out] if words[0] == "convert" and "null" not in words else []

    def go() -> Turn:
        return savefmt(words[0], image, *target, *words[1:])

    return Side(go, [image], target)


_REFLINK = "cp --reflink=always and sync, twice, plus a dry run of savefmt"
_DD = "dd of the raw image, direct"
_FIO_BOTH = "fio reads and writes as many bytes at once, direct, best depth"
_FIO_PAGES = "fio reads the same pages, direct, best depth"
_FIO_READ = "fio reads as many bytes, direct, best depth"
_DENSE = "a guest with as many pages in one piece"
_ALONE = "each page is its own request to the disk; see the row in which fio reads the same pages"
_SPREAD = {"alternate": 2, "scattered": 32}
"""RAM of a guest in fragments, for each byte of its data."""
_SPARSE = ("convert", "-O", "sparse")
_NULL = ("convert", "-O", "null")

_BOTH_WAYS = (
    "savefmt reads and writes at the same time, but this disk does not: fio, which also does both, "
    "takes as long as dd. The difference is the start of the program (0.05 s)"
)
_DECODED = (
    "0.05 s is the start of the program. One core decodes the stream, and the other scans "
    "and writes"
)

_START = "the goal is twice the time of cp plus the start of the program"

_MEMBERS = (
    "zstd -dc writes nothing. The disk needs about as long to read the source and write the "
    "target as zstd -dc takes, and the interpreter must start before that"
)

CASES = (
    Case("raw-sparse", "raw → sparse", _DD, 1.0, _raw_to_sparse, ("dd",), note=_BOTH_WAYS),
    Case("raw-sparse-fio", "raw → sparse", _FIO_BOTH, 0.9, _raw_to_sparse_fio, ("fio",), rate=True),
    Case("sparse-raw", "sparse → raw", _DD, 1.0, _sparse_to_raw, ("dd",), note=_BOTH_WAYS),
    Case("sparse-raw-fio", "sparse → raw", _FIO_BOTH, 0.9, _sparse_to_raw_fio, ("fio",), rate=True),
    Case(
        "sparse-sparse",
        "sparse → sparse, version 3",
        "cp --reflink=auto, and sync",
        1.0,
        _sparse_to_sparse,
        ("cp", "sync"),
    ),
    *(
        Case(
            f"clone-{kind}{name}",
            f"{work} on {kind}",
            _REFLINK,
            1.0,
            _clone(kind, *words),
            ("cp", "sync"),
            turns=2,
            ready=_mounts(kind),
            note=_START,
        )
        for kind in ("xfs", "btrfs")
        for name, work, words in (
            ("", "sparse → sparse, version 3,", ("convert", "-O", "sparse", "--save-version=3")),
            ("-raw", "sparse → raw memory", ("export", "-f", "raw")),
        )
    ),
    Case(
        "in-place",
        "save version changed in place",
        "cp --reflink=auto, and sync",
        0.1,
        _in_place,
        ("cp", "sync"),
        turns=2,  # An even number leaves the image with the version it had.
        note="the time is the start of the interpreter",
    ),
    Case("read-sparse", "sparse → null", _FIO_READ, 0.95, _reads("sparse", *_NULL), ("fio",), True),
    Case(
        "check-sparse",
        "check --full, sparse",
        _FIO_READ,
        0.95,
        _reads("sparse", "check", "--full"),
        ("fio",),
        True,
    ),
    Case("read-raw", "raw → null", _FIO_READ, 0.9, _reads("raw", *_NULL), ("fio",), True),
    Case(
        "check-raw",
        "check --full, raw",
        _FIO_READ,
        0.9,
        _reads("raw", "check", "--full"),
        ("fio",),
        True,
    ),
    Case(
        "index-raw",
        "index of a raw image, for one read",
        _FIO_READ,
        0.9,
        _reads("raw", "read", "--physical", "0x100000", "16"),
        ("fio",),
        True,
    ),
    Case(
        "compare",
        "compare raw with sparse",
        _FIO_READ,
        0.9,
        _compare,
        ("fio",),
        True,
    ),
    Case(
        "memory",
        "raw → sparse in memory, 1 thread",
        "cp there",
        1.3,
        _in_memory,
        ("cp",),
        ready=_room_in_memory,
        note="records are not aligned to pages, so savefmt makes one copy more than cp, and tests "
        "for zeros. One thread moves pages, one reads ahead, one writes",
    ),
    Case(
        "zstd-sparse",
        "zstd → sparse",
        "zstd -dc >/dev/null",
        1.1,
        _decode("zstd"),
        ("zstd",),
        note=_DECODED,
    ),
    Case(
        "gzip-sparse",
        "gzip → sparse",
        "gzip -dc >/dev/null",
        0.35,
        _decode("gzip"),
        ("gzip",),
        note=_DECODED,
    ),
    Case(
        "zstd-members",
        "zstd in frames → sparse",
        "zstd -dc >/dev/null",
        1.0,
        _decode("zstd", members=True),
        ("zstd",),
        note=_MEMBERS,
    ),
    Case(
        "gzip-members",
        "gzip in members → sparse",
        "gzip -dc >/dev/null",
        0.35,
        _decode("gzip", members=True),
        ("gzip",),
    ),
    # With one core for each side of the pipe, the codec is the limit on both sides.
    Case("raw-zstd", "raw → zstd", "zstd -c -T0 of raw", 1.1, _encode("raw"), ("zstd",)),
    Case("sparse-zstd", "sparse → zstd", "zstd -c -T0 of raw", 1.1, _encode("sparse"), ("zstd",)),
    Case(
        "info",
        "info",
        "qemu-img info of a qcow2",
        3.0,
        _info,
        ("qemu-img",),
        turns=4,
        note="not possible in Python: the bare interpreter takes about twice qemu-img's time, and "
        "argparse, json, cffi and the modules that they load take as much again",
    ),
    Case(
        "growth-check",
        "check --full, large guest",
        "small guest, same data",
        1.5,
        _growth("check", "--full"),
    ),
    Case(
        "growth-sparse",
        "sparse → sparse, large guest",
        "small guest, same data",
        1.5,
        _growth(*_SPARSE),
    ),
    Case(
        "alternate-read",
        "sparse → null, every other page",
        _DENSE,
        2.0,
        _fragments("alternate", "sparse", *_NULL),
        note=_ALONE,
    ),
    Case(
        "alternate-fio",
        "sparse → null, every other page",
        _FIO_PAGES,
        0.9,
        _page_reads("alternate"),
        ("fio",),
        rate=True,
    ),
    Case(
        "alternate-sparse",
        "raw → sparse, every other page",
        _DENSE,
        2.0,
        _fragments("alternate", "raw", *_SPARSE),
    ),
    Case(
        "alternate-raw",
        "sparse → raw, every other page",
        _DENSE,
        2.0,
        _fragments("alternate", "sparse", "convert", "-O", "raw"),
    ),
    Case(
        "alone-read",
        "sparse → null, every page alone",
        _DENSE,
        2.0,
        _fragments("scattered", "sparse", *_NULL),
        note=_ALONE,
    ),
    Case(
        "alone-fio",
        "sparse → null, every page alone",
        _FIO_PAGES,
        0.9,
        _page_reads("scattered"),
        ("fio",),
        rate=True,
    ),
    Case(
        "alone-sparse",
        "raw → sparse, every page alone",
        _DENSE,
        2.0,
        _fragments("scattered", "raw", *_SPARSE),
    ),
    Case(
        "alone-raw",
        "sparse → raw, every page alone",
        _DENSE,
        2.0,
        _fragments("scattered", "sparse", "convert", "-O", "raw"),
        note=_ALONE,
    ),
)

CURVES = {
    "check --full": ("check", "--full"),
    "sparse → sparse": _SPARSE,
    "sparse → raw": ("convert", "-O", "raw"),
    "info": ("info",),
}
"""Work whose cost is drawn against the size of the guest."""


def curve_point(lab: Lab, work: str, ram: int) -> Turn:
    """Do the work on a guest of that size, with the same data at every size."""
    return _work(lab, lab.sparse(ram, lab.scale.growth_data), CURVES[work]).turn()


def gib(length: int) -> str:
    """Give a size in the unit of the table."""
    return f"{length / GIB:g} GiB"
