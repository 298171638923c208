"""The policy's truth table, written by hand: every combination, each by exactly one row."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from savefmt.cli import saveoptions
from savefmt.compat import policy
from savefmt.compat.policy import (
    Abilities,
    Destination,
    DestinationKind,
    Missing,
    SaveRequest,
    abilities_of,
    plan_save,
)
from savefmt.compat.releases import Reader, Release
from savefmt.model import Layout
from savefmt.reports import Refusal, SavePlan

# What QEMU can do: m is mapped-ram, d direct I/O, f multifd.
QEMUS = {
    "".join(letters) or "none": Abilities("m" in letters, "d" in letters, "f" in letters)
    for count in range(4)
    for letters in itertools.combinations("mdf", count)
}
TARGETS = {
    "direct": Destination(),
    "cached": Destination(direct=False),
    "pipe": Destination(DestinationKind.PIPE, direct=False),
    "character": Destination(DestinationKind.CHARACTER, direct=False),
    "socket": Destination(DestinationKind.SOCKET, direct=False),
    "block": Destination(DestinationKind.BLOCK),
}
DIMENSIONS = {
    "version": ("3", "2", "upstream"),
    "format": policy.FORMATS,
    "parallel": ("-", "1", "4", "0", "65"),
    "bypass": ("-", "bypass"),
    "missing": ("prefer", "require"),
    "qemu": tuple(QEMUS),
    "target": tuple(TARGETS),
}
WORDS = {
    "codec": "raw|gzip|bzip2|xz|lzop|zstd",
    "few": "1|4",
    "new": "3|upstream",
    "unmapped": "none|d|f|df",
    "mapped": "m|md|mf|mdf",
    "file": "direct|cached",
    "stream": "pipe|character",
    "never": "socket",
}

# "*" is anything, "|" is or, "-" is not asked for, and the words above are short for what
# stands there.  The outcome is the layout, then the channels of multifd (N is as many as
# were asked for) and "direct" where there are any; or the code of the refusal.
TABLE = """\
version format      parallel bypass missing qemu     target        -> outcome

*       *           0|65     *      *       *        *             -> refused channels

2       sparse      -|few    *      *       *        *             -> refused version-2
2       auto|codec  few      *      *       *        *             -> refused version-2
2       auto|codec  -        *      *       *        never         -> refused target
2       auto|codec  -        -      *       *        file|stream|block -> sequential
2       auto|codec  -        bypass *       *        direct|block  -> sequential direct
2       auto|codec  -        bypass prefer  *        cached|stream -> sequential
2       auto|codec  -        bypass require *        cached|stream -> refused direct-refused

new     codec       few      *      *       *        *             -> refused parallel-sequential
new     codec       -        *      *       *        never         -> refused target
new     codec       -        -      *       *        file|stream|block -> sequential
new     codec       -        bypass *       *        direct|block  -> sequential direct
new     codec       -        bypass prefer  *        cached|stream -> sequential
new     codec       -        bypass require *        cached|stream -> refused direct-refused

new     auto|sparse -|few    *      require unmapped *             -> refused no-mapped-ram
new     auto|sparse -|few    *      prefer  unmapped never         -> refused target
new     auto|sparse -|few    -      prefer  unmapped file|stream|block -> sequential
new     auto|sparse -|few    bypass prefer  unmapped direct|block  -> sequential direct
new     auto|sparse -|few    bypass prefer  unmapped cached|stream -> sequential

new     auto|sparse -|few    *      require mapped   stream|block|never -> refused not-seekable
new     auto|sparse -|few    *      prefer  mapped   stream        -> sequential
new     auto|sparse -|few    -      prefer  mapped   block         -> sequential
new     auto|sparse -|few    bypass prefer  mapped   block         -> sequential direct
new     auto|sparse -|few    *      prefer  mapped   never         -> refused target

new     auto|sparse -        -      *       mapped   file          -> mapped-ram
new     auto|sparse few      -      *       mf|mdf   file          -> mapped-ram N
new     auto|sparse few      *      require m|md     file          -> refused no-multifd
new     auto|sparse few      -      prefer  m|md     file          -> sequential
new     auto|sparse few      bypass prefer  m|md     direct        -> sequential direct
new     auto|sparse few      bypass prefer  m|md     cached        -> sequential

new     auto|sparse -        bypass *       mdf      direct        -> mapped-ram 1 direct
new     auto|sparse few      bypass *       mdf      direct        -> mapped-ram N direct
new     auto|sparse -|few    bypass require mdf      cached        -> refused direct-refused
new     auto|sparse -        bypass prefer  mdf      cached        -> mapped-ram
new     auto|sparse few      bypass prefer  mdf      cached        -> mapped-ram N

new     auto|sparse -        bypass require m|md|mf  file          -> refused no-direct-io
new     auto        -        bypass prefer  m|md|mf  direct        -> sequential direct
new     sparse      -        bypass prefer  m|md|mf  direct        -> mapped-ram
new     auto|sparse -        bypass prefer  m|md|mf  cached        -> mapped-ram
new     auto|sparse few      bypass require mf       file          -> refused no-direct-io
new     auto|sparse few      bypass prefer  mf       file          -> mapped-ram N
"""

# Save version, then the number of a mapped-ram image, its features, and the numbers of codecs.
HEADERS = {"3": (3, 0, 1), "upstream": (2, 6, 0), "2": (2, None, 0)}
NUMBERS = {"raw": 0, "gzip": 1, "bzip2": 2, "xz": 3, "lzop": 4, "zstd": 5}

Case = tuple[str, ...]
CASES: list[Case] = list(itertools.product(*DIMENSIONS.values()))


def values_of(cell: str, dimension: tuple[str, ...]) -> list[str]:
    """Return the values that a cell of the table stands for."""
    if cell == "*":
        return list(dimension)
    plain = "|".join(WORDS.get(word, word) for word in cell.split("|")).split("|")
    assert set(plain) <= set(dimension), cell
    return plain


def rows() -> list[tuple[str, list[Case], str]]:
    """Read the table: each line, the cases it speaks of, and their outcome."""
    found = []
    for line in filter(None, TABLE.splitlines()[1:]):
        cells, _, outcome = line.partition("->")
        words = cells.split()
        assert len(words) == len(DIMENSIONS), line
        values = map(values_of, words, DIMENSIONS.values())
        found.append((line, list(itertools.product(*values)), outcome.strip()))
    return found


ROWS = rows()


def plan_of(case: Case) -> SavePlan | Refusal:
    version, format, parallel, bypass, missing, qemu, target = case
    request = SaveRequest(
        save_version=version,
        format=format,
        parallel=int(parallel) if parallel != "-" else None,
        bypass_cache=bypass != "-",
        missing=Missing(missing),
    )
    return plan_save(request, QEMUS[qemu], TARGETS[target])


def told(plan: SavePlan | Refusal) -> str:
    """Put a plan into the table's words."""
    if isinstance(plan, Refusal):
        return f"refused {plan.code}"
    words = [str(plan.layout)]
    words += [str(plan.channels)] * bool(plan.channels)
    words += ["direct"] * plan.direct
    return " ".join(words)


def test_the_table_is_whole() -> None:
    """Every combination stands in one row and in no other."""
    spoken_of = Counter(itertools.chain.from_iterable(cases for _, cases, _ in ROWS))

    assert len(CASES) == 3 * 8 * 5 * 2 * 2 * 8 * 6
    assert set(spoken_of) == set(CASES)
    assert set(spoken_of.values()) == {1}


@pytest.mark.parametrize(("cases", "outcome"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_the_truth_table(cases: list[Case], outcome: str) -> None:
    for case in cases:
        assert told(plan_of(case)) == outcome.replace("N", case[2]), case


@pytest.mark.parametrize("version", DIMENSIONS["version"])
def test_plans_are_consistent(version: str) -> None:
    for case in CASES:
        if case[0] == version:
            check_consistency(case, plan_of(case))


def check_consistency(case: Case, plan: SavePlan | Refusal) -> None:
    if isinstance(plan, Refusal):
        assert plan.reason, case
        assert plan.advice, case
        return
    version, mapped_format, features = HEADERS[case[0]]
    mapped = plan.layout is Layout.MAPPED_RAM
    assert (plan.form, plan.version) == (case[0], version), case
    assert plan.features == (features if mapped else 0), case
    assert plan.format == (mapped_format if mapped else NUMBERS[plan.codec]), case
    assert plan.codec == (case[1] if case[1] in NUMBERS else "raw"), case
    assert plan.writer == ("qemu" if mapped else "savefmt"), case
    assert ("mapped-ram" in plan.capabilities) is mapped, case
    assert ("multifd" in plan.capabilities) is bool(plan.channels), case
    if mapped:
        assert plan.descriptors == (("plain", "direct") if plan.direct else ("plain",)), case
        assert plan.channels or not plan.direct, case
    else:
        assert plan.descriptors == ("pipe",), case
    lost = case[3] != "-" and not plan.direct
    lost = lost or (case[2] != "-" and not plan.channels)
    lost = lost or (not mapped and case[0] != "2" and case[1] in ("auto", "sparse"))
    trap = plan.direct and mapped and case[0] == "upstream"
    warnings = [note for note in plan.notes if "direct-io" in note]
    assert bool(warnings) is trap, f"what virsh restore may leave behind is told: {case}"
    rest = len(plan.notes) > len(warnings)
    assert rest is lost, f"every fall-back is told, and nothing else: {case}"


@pytest.mark.parametrize("channels", [0, -1, 65, 1 << 31])
def test_channels_must_be_sensible(channels: int) -> None:
    plan = plan_save(SaveRequest(parallel=channels), QEMUS["mdf"], Destination())

    assert isinstance(plan, Refusal)
    assert plan.code == "channels"


@pytest.mark.parametrize(
    ("readers", "form"),
    [
        ((), "3"),
        (("libvirt=11.3.0",), "upstream"),
        (("libvirt=9.0.0",), "upstream"),
        (("qemu=9.0",), "3"),
        (("libvirt=proposed",), "3"),
        (("libvirt=proposed", "libvirt=11.3"), "upstream"),
        (("qemu=9.0", "libvirt=11.3"), "upstream"),
    ],
)
def test_the_reader_chooses_the_save_version(readers: tuple[str, ...], form: str) -> None:
    request = SaveRequest(readers=tuple(map(Reader.parse, readers)))

    assert request.form == form


@pytest.mark.parametrize(
    ("reader", "options", "outcome"),
    [
        ("libvirt=11.3", {}, "mapped-ram"),
        ("libvirt=11.1", {}, "sequential"),
        ("libvirt=11.1", {"missing": Missing.REQUIRE}, "refused reader"),
        ("libvirt=10.3", {"format": "zstd"}, "refused reader"),
        ("libvirt=10.4", {"format": "zstd"}, "sequential"),
        ("libvirt=11.3", {"save_version": "3"}, "refused reader"),
        ("libvirt=11.3", {"save_version": "2"}, "sequential"),
        ("libvirt=proposed", {}, "mapped-ram"),
        ("libvirt=proposed", {"save_version": "upstream"}, "sequential"),
        (
            "libvirt=proposed",
            {"save_version": "upstream", "missing": Missing.REQUIRE},
            "refused reader",
        ),
        ("libvirt=11.3 qemu=8.2", {}, "sequential"),
        ("libvirt=11.3 qemu=8.2", {"missing": Missing.REQUIRE}, "refused reader"),
        ("libvirt=11.3 qemu=9.0", {"parallel": 4}, "mapped-ram 4"),
        ("libvirt=10.3 libvirt=11.3", {"format": "zstd"}, "refused reader"),
        ("qemu=8.2", {}, "sequential"),
        ("qemu=9.0", {}, "mapped-ram"),
    ],
)
def test_what_a_reader_cannot_load_is_not_written(
    reader: str, options: dict[str, object], outcome: str
) -> None:
    readers = tuple(map(Reader.parse, reader.split()))
    request = SaveRequest(readers=readers, **options)  # type: ignore[arg-type]

    assert told(plan_save(request, QEMUS["mdf"], Destination())) == outcome


@pytest.mark.parametrize(
    ("release", "name"), [("3.1", "none"), ("8.2.9", "f"), ("9.0", "mf"), ("9.1", "mdf")]
)
def test_abilities_by_the_table(release: str, name: str) -> None:
    assert abilities_of(Release.parse(release)) == QEMUS[name]


def test_the_command_line_offers_what_the_policy_takes() -> None:
    assert saveoptions.SAVE_VERSIONS == policy.SAVE_VERSIONS
    assert saveoptions.SAVE_FORMATS == policy.FORMATS


@pytest.mark.parametrize("form", ["raw", "sparse"])
def test_direct_io_that_a_restore_left_set_is_told(form: str) -> None:
    request = SaveRequest(format=form, save_version="3")
    for left in (False, True):
        plan = plan_save(request, Abilities(True, True, direct_io_set=left), Destination())
        assert isinstance(plan, SavePlan)
        assert any("direct-io is set" in note for note in plan.notes) is left


@pytest.mark.parametrize("wrong", [{"save_version": "1"}, {"format": "vmdk"}, {"missing": "maybe"}])
def test_a_request_knows_its_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong.values()))!r}"):
        SaveRequest(**wrong)
