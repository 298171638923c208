"""The policy's truth table, written by hand: every combination, each by exactly one row."""

from __future__ import annotations

import itertools

import pytest

from savefmt.cli import saving
from savefmt.compat import policy
from savefmt.compat.policy import (
    Abilities,
    Missing,
    SaveRequest,
    Target,
    TargetKind,
    abilities_of,
    plan_save,
)
from savefmt.compat.releases import Reader, Release
from savefmt.model import Layout, Refusal, SavePlan

QEMUS = {
    "8.2": Abilities(mapped_ram=False, direct_io=False),
    "9.0": Abilities(mapped_ram=True, direct_io=False),
    "9.1": Abilities(mapped_ram=True, direct_io=True),
}
TARGETS = {
    "direct": Target(),
    "cached": Target(direct=False),
    "pipe": Target(TargetKind.PIPE, direct=False),
}
DIMENSIONS = {
    "version": ("3", "2", "upstream"),
    "format": ("auto", "raw", "zstd", "sparse"),
    "parallel": ("-", "4"),
    "bypass": ("-", "bypass"),
    "missing": ("prefer", "require"),
    "qemu": tuple(QEMUS),
    "target": tuple(TARGETS),
}

# "*" is anything, "|" is or, "-" is not asked for.  The outcome is the layout, then the
# channels of multifd and "direct" where there are any; or the code of the refusal.
TABLE = """\
version    format         parallel bypass missing qemu    target        -> outcome

2          sparse         *        *      *       *       *             -> refused version-2
2          auto|raw|zstd  4        *      *       *       *             -> refused version-2
2          auto|raw|zstd  -        -      *       *       *             -> sequential
2          auto|raw|zstd  -        bypass *       *       direct        -> sequential direct
2          auto|raw|zstd  -        bypass prefer  *       cached|pipe   -> sequential
2          auto|raw|zstd  -        bypass require *       cached|pipe   -> refused direct-refused

3|upstream raw|zstd       4        *      *       *       * -> refused parallel-sequential
3|upstream raw|zstd       -        -      *       *       *             -> sequential
3|upstream raw|zstd       -        bypass *       *       direct        -> sequential direct
3|upstream raw|zstd       -        bypass prefer  *       cached|pipe   -> sequential
3|upstream raw|zstd       -        bypass require *       cached|pipe   -> refused direct-refused

3|upstream auto|sparse    *        *      require 8.2     *             -> refused no-mapped-ram
3|upstream auto|sparse    *        -      prefer  8.2     *             -> sequential
3|upstream auto|sparse    *        bypass prefer  8.2     direct        -> sequential direct
3|upstream auto|sparse    *        bypass prefer  8.2     cached|pipe   -> sequential

3|upstream auto|sparse    *        *      require 9.0|9.1 pipe          -> refused not-seekable
3|upstream auto|sparse    *        *      prefer  9.0|9.1 pipe          -> sequential

3|upstream auto|sparse    -        -      *       9.0|9.1 direct|cached -> mapped-ram
3|upstream auto|sparse    4        -      *       9.0|9.1 direct|cached -> mapped-ram 4

3|upstream auto|sparse    -        bypass *       9.1     direct        -> mapped-ram 1 direct
3|upstream auto|sparse    4        bypass *       9.1     direct        -> mapped-ram 4 direct
3|upstream auto|sparse    *        bypass require 9.1     cached        -> refused direct-refused
3|upstream auto|sparse    -        bypass prefer  9.1     cached        -> mapped-ram
3|upstream auto|sparse    4        bypass prefer  9.1     cached        -> mapped-ram 4

3|upstream auto|sparse    *        bypass require 9.0     direct|cached -> refused no-direct-io
3|upstream auto           -        bypass prefer  9.0     direct        -> sequential direct
3|upstream sparse         -        bypass prefer  9.0     direct        -> mapped-ram
3|upstream auto|sparse    -        bypass prefer  9.0     cached        -> mapped-ram
3|upstream auto|sparse    4        bypass prefer  9.0     direct|cached -> mapped-ram 4
"""

# Save version, then the format of a mapped-ram image and of a raw and a zstd one.
HEADERS = {
    "3": (3, 0, 1, 5),
    "upstream": (2, 6, 0, 5),
    "2": (2, None, 0, 5),
}

Case = tuple[str, ...]
CASES: list[Case] = list(itertools.product(*DIMENSIONS.values()))


def rows() -> list[tuple[list[frozenset[str]], str]]:
    """Read the table."""
    found = []
    for line in filter(None, TABLE.splitlines()[1:]):
        cells, _, outcome = line.partition("->")
        words = cells.split()
        assert len(words) == len(DIMENSIONS), line
        sets = [
            frozenset(values) if word == "*" else frozenset(word.split("|"))
            for word, values in zip(words, DIMENSIONS.values(), strict=True)
        ]
        assert all(s <= set(v) for s, v in zip(sets, DIMENSIONS.values(), strict=True)), line
        found.append((sets, outcome.strip()))
    return found


ROWS = rows()


def expected(case: Case) -> str:
    """Look a case up; exactly one row must speak of it."""
    matching = [
        outcome
        for sets, outcome in ROWS
        if all(word in allowed for word, allowed in zip(case, sets, strict=True))
    ]
    assert len(matching) == 1, (case, matching)
    return matching[0]


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
    assert len(CASES) == 3 * 4 * 2 * 2 * 2 * 3 * 3
    for case in CASES:
        expected(case)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_the_truth_table(row: tuple[list[frozenset[str]], str]) -> None:
    for case in itertools.product(*row[0]):
        assert told(plan_of(case)) == row[1], case


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_plan_is_consistent(case: Case) -> None:
    plan = plan_of(case)

    if isinstance(plan, Refusal):
        assert plan.reason
        assert plan.advice
        return
    version, mapped_format, features, zstd = HEADERS[case[0]]
    mapped = plan.layout is Layout.MAPPED_RAM
    assert (plan.form, plan.version) == (case[0], version)
    assert plan.features == (features if mapped else 0)
    assert plan.format == (mapped_format if mapped else zstd if plan.codec == "zstd" else 0)
    assert plan.codec == ("zstd" if case[1] == "zstd" else "raw")
    assert plan.writer == ("qemu" if mapped else "savefmt")
    assert ("mapped-ram" in plan.capabilities) is mapped
    assert ("multifd" in plan.capabilities) is bool(plan.channels)
    if mapped:
        assert plan.descriptors == (("plain", "direct") if plan.direct else ("plain",))
        assert plan.channels or not plan.direct
    else:
        assert plan.descriptors == ("pipe",)
    lost = case[3] != "-" and not plan.direct
    lost = lost or (case[2] != "-" and not plan.channels)
    lost = lost or (not mapped and case[0] != "2" and case[1] in ("auto", "sparse"))
    assert bool(plan.notes) is lost, "every fall-back is told, and nothing else"


@pytest.mark.parametrize("channels", [0, -1, 65, 1 << 31])
def test_channels_must_be_sensible(channels: int) -> None:
    plan = plan_save(SaveRequest(parallel=channels), QEMUS["9.1"], Target())

    assert isinstance(plan, Refusal)
    assert plan.code == "channels"


def test_channels_need_multifd() -> None:
    qemu = Abilities(mapped_ram=True, direct_io=True, multifd=False)
    require = SaveRequest(parallel=2, missing=Missing.REQUIRE)

    assert told(plan_save(require, qemu, Target())) == "refused no-multifd"
    assert told(plan_save(SaveRequest(parallel=2), qemu, Target())) == "sequential"


@pytest.mark.parametrize("kind", [TargetKind.SOCKET, TargetKind.BLOCK])
def test_what_is_not_written_to(kind: TargetKind) -> None:
    target = Target(kind, direct=False)

    assert told(plan_save(SaveRequest(), QEMUS["9.1"], target)) == "refused target"
    require = SaveRequest(missing=Missing.REQUIRE)
    assert told(plan_save(require, QEMUS["9.1"], target)) == "refused not-seekable"


def test_a_character_device_takes_a_stream() -> None:
    target = Target(TargetKind.CHARACTER, direct=False)

    assert told(plan_save(SaveRequest(), QEMUS["9.1"], target)) == "sequential"


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
        ("qemu=8.2", {}, "sequential"),
        ("qemu=9.0", {}, "mapped-ram"),
    ],
)
def test_what_a_reader_cannot_load_is_not_written(
    reader: str, options: dict[str, object], outcome: str
) -> None:
    request = SaveRequest(readers=(Reader.parse(reader),), **options)  # type: ignore[arg-type]

    assert told(plan_save(request, QEMUS["9.1"], Target())) == outcome


@pytest.mark.parametrize(("release", "name"), [("8.2.9", "8.2"), ("9.0", "9.0"), ("9.1", "9.1")])
def test_abilities_by_the_table(release: str, name: str) -> None:
    assert abilities_of(Release.parse(release)) == QEMUS[name]


def test_the_command_line_offers_what_the_policy_takes() -> None:
    assert saving.SAVE_VERSIONS == policy.SAVE_VERSIONS
    assert saving.SAVE_FORMATS == policy.FORMATS
