"""Real images through every conversion: memory as QEMU had it, all else as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle import CODECS, Held, assert_bytes, assert_same_guest, digests, hold

import savefmt
from golden import load
from savefmt import ConversionError, IOOptions, Layout

Facts = dict[str, Any]

THREADS = IOOptions(threads=2)
TARGETS: dict[str, dict[str, Any]] = {
    **{codec: {"layout": Layout.SEQUENTIAL, "codec": codec} for codec in CODECS},
    "sparse": {"layout": Layout.MAPPED_RAM},
}
NUMBERS = dict(zip([*CODECS, "sparse"], range(7), strict=True))
ALL = load.manifest()
# Hundreds of thousands of tiny sections, through which the reference goes byte by byte.
SLOW = "dirty-bitmaps"
FORMS = [
    (name, target)
    for name in ALL
    for target in TARGETS
    if not name.startswith(SLOW) or target == "sparse"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("goldens")


@pytest.fixture(scope="module")
def unpack(folder: Path) -> Callable[[str], tuple[Path, Held]]:
    """Unpack each image once, and keep what the reference reads in the last one."""
    kept: dict[str, tuple[Path, Held]] = {}

    def get(name: str) -> tuple[Path, Held]:
        if name not in kept:
            kept.clear()
            path = folder / ALL[name]["file"]
            if not path.exists():
                load.unpack(name, folder)
            kept[name] = path, hold(path)
        return kept[name]

    return get


Unpack = Callable[[str], tuple[Path, Held]]


def can_become_sparse(facts: Facts) -> bool:
    return facts.get("configuration", True) and "ignored" not in facts


def expected_blocks(facts: Facts) -> dict[str, str]:
    """What QEMU said that its memory holds; an ignored block's content is not in the image."""
    if facts.get("ram_lost"):
        return {}
    return {
        name: block["sha256"]
        for name, block in facts["blocks"].items()
        if name not in facts.get("ignored", ())
    }


def assert_holds(held: Held, facts: Facts) -> None:
    found = digests(held.image)
    expected = expected_blocks(facts)
    assert {name: found[name] for name in expected} == expected
    assert set(found) == set(facts["blocks"])
    assert held.image.machine == (facts["machine"] if facts.get("configuration", True) else "")


def read_clear_pages_as_zeros(held: Held, base: int) -> bytes:
    """Return a mapped-ram stream with zeros where it is stale; it begins at `base`."""
    stream = bytearray(held.stream)
    size = held.image.page_size
    for block in held.image.blocks.values():
        for page in block.zero:
            assert block.pages_offset is not None
            at = block.pages_offset + page * size - base
            stream[at : at + size] = bytes(size)
    return bytes(stream)


@pytest.mark.parametrize(("name", "target"), FORMS)
def test_every_form(name: str, target: str, unpack: Unpack, tmp_path: Path) -> None:
    facts = ALL[name]
    source, before = unpack(name)
    options = {"io": THREADS, **TARGETS[target]}
    if target == "sparse" and not can_become_sparse(facts):
        with pytest.raises(ConversionError, match="has to stay sequential"):
            savefmt.convert(source, tmp_path / "target", **options)
        return

    report = savefmt.convert(source, tmp_path / "target", verify=target == "sparse", **options)

    after = hold(tmp_path / "target")
    assert_holds(after, facts)
    assert_same_guest(before.image, after.image)
    assert after.codec == ("raw" if target == "sparse" else target)
    assert after.image.layout == ("mapped-ram" if target == "sparse" else "sequential")
    number = NUMBERS[target].to_bytes(4, "little") if before.envelope else b""
    assert after.envelope == before.envelope[:28] + number + before.envelope[32:]
    wrong = "the envelope named the wrong layout; it now names the right one"
    assert (wrong in report.changes) == facts.get("mislabelled", False)


@pytest.mark.parametrize("name", load.names(lambda facts: facts["layout"] == "mapped-ram"))
def test_mapped_to_sequential_and_back_is_the_same_file(
    name: str, unpack: Unpack, tmp_path: Path
) -> None:
    source, before = unpack(name)

    savefmt.convert(source, tmp_path / "sequential", layout=Layout.SEQUENTIAL, io=THREADS)
    savefmt.convert(
        tmp_path / "sequential", tmp_path / "back", layout=Layout.MAPPED_RAM, io=THREADS
    )
    savefmt.convert(source, tmp_path / "copy", io=THREADS)

    expected = before.envelope + read_clear_pages_as_zeros(before, len(before.envelope))
    assert_bytes(tmp_path / "back", expected)
    assert_bytes(tmp_path / "copy", expected)
    if not (ALL[name].get("stale") or ALL[name].get("ram_lost")):
        assert_bytes(source, expected)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in load.names(lambda facts: facts["layout"] == "sequential")
        if can_become_sparse(ALL[name]) and name != SLOW
    ],
)
def test_sequential_to_mapped_and_back_keeps_the_guest(
    name: str, unpack: Unpack, tmp_path: Path
) -> None:
    source, before = unpack(name)

    savefmt.convert(source, tmp_path / "mapped", layout=Layout.MAPPED_RAM, io=THREADS)
    savefmt.convert(tmp_path / "mapped", tmp_path / "back", layout=Layout.SEQUENTIAL, io=THREADS)

    assert_holds(hold(tmp_path / "back"), ALL[name])
    with savefmt.open(source) as first, savefmt.open(tmp_path / "back") as last:
        assert first.memory.digest() == last.memory.digest()
    # The description is restored to the byte: nothing but the order of pages changed.
    assert hold(tmp_path / "back").image.description == before.image.description


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in load.names(lambda facts: facts["layout"] == "sequential" and "twin" in facts)
        if name != SLOW
    ],
)
def test_a_twin_lies_as_qemu_laid_it(name: str, unpack: Unpack, tmp_path: Path) -> None:
    """What QEMU wrote itself has the same blocks at the same places with the same pages."""
    source, _ = unpack(name)
    savefmt.convert(source, tmp_path / "ours", layout=Layout.MAPPED_RAM, io=THREADS)
    ours = hold(tmp_path / "ours")

    path, theirs = unpack(ALL[name]["twin"])

    assert [
        (block, held.pages_offset, held.present, held.zero)
        for block, held in ours.image.blocks.items()
    ] == [
        (block, held.pages_offset, held.present, held.zero)
        for block, held in theirs.image.blocks.items()
    ]
    assert digests(ours.image) == digests(theirs.image)
    assert savefmt.compare(path, tmp_path / "ours").blocks == ()
