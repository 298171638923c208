"""Search: kinds of patterns, borders, addresses, limits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import PAGE_SIZE
from golden import load
from scanning import FORMS, HAS_RE2, needs_re2, opened

import savefmt
from savefmt.guest.mappings import ReverseMap, VirtualRange
from savefmt.image import SaveImage
from savefmt.linux.processmemory import ProcessMemory, _Space
from savefmt.scan import windows
from savefmt.scan.patterns import MATCH_LIMIT, Matcher, escaped, hexadecimal, literal, regex, text
from savefmt.scan.search import Places, count, search
from savefmt.scan.windows import Stretch
from savefmt.scan.yara import compile_rules, search_rules


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_LENGTH", 2 * PAGE_SIZE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened_images:
        yield opened_images


def put(content: bytes, at: int, data: bytes) -> bytes:
    return content[:at] + data + content[at + len(data) :]


RAM = bytes(16 * PAGE_SIZE)
for place in (0, PAGE_SIZE - 3, 2 * PAGE_SIZE - 1, 5 * PAGE_SIZE + 77, 16 * PAGE_SIZE - 6):
    RAM = put(RAM, place, b"needle")
NEEDLES = [0, PAGE_SIZE - 3, 2 * PAGE_SIZE - 1, 5 * PAGE_SIZE + 77, 16 * PAGE_SIZE - 6]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "needle"),
        (hexadecimal, "6e65 ?? 6? 6c65"),
        pytest.param(regex, "ne+dle", marks=needs_re2),
        (escaped, r"n\x65edle"),
    ],
)
def test_hits_over_page_and_window_borders(
    form: str, make: Callable[[str], Matcher], words: str, stack: ExitStack, tmp_path: Path
) -> None:
    image = opened(stack, tmp_path, form, {"ram": RAM, "rom": padded_rom()})

    hits = list(search(image, [make(words)], context=4))

    assert [(hit.block, hit.offset) for hit in hits] == [
        *(("ram", offset) for offset in NEEDLES),
        ("rom", 1),
    ]
    for hit in hits:
        content = RAM if hit.block == "ram" else padded_rom()
        assert hit.data == b"needle"
        assert hit.before == content[max(hit.offset - 4, 0) : hit.offset]
        assert hit.after == content[hit.offset + 6 :][:4]


def padded_rom() -> bytes:
    return (b"!needle").ljust(PAGE_SIZE, b"\0")


def test_zeros_are_found_where_nothing_is_stored(stack: ExitStack, tmp_path: Path) -> None:
    content = b"x" * PAGE_SIZE + bytes(PAGE_SIZE) + b"y" * PAGE_SIZE
    image = opened(stack, tmp_path, "mapped", {"ram": content})

    assert [hit.offset for hit in search(image, [literal(bytes(PAGE_SIZE))])] == [PAGE_SIZE]
    # Begins in data and ends in zeros, and the reverse.
    over = [literal(b"x" + bytes(9)), literal(bytes(9) + b"y")]
    assert [hit.offset for hit in search(image, over)] == [PAGE_SIZE - 1, 2 * PAGE_SIZE - 9]


def test_overlapping_matches(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", {"ram": b"aaaa".ljust(PAGE_SIZE, b"\0")})

    assert [hit.offset for hit in search(image, [text("aa")])] == [0, 1, 2]
    if HAS_RE2:
        assert [hit.offset for hit in search(image, [regex("aa")])] == [0, 2]


@needs_re2
def test_expressions_go_on_behind_a_match_in_the_next_window(
    stack: ExitStack, tmp_path: Path
) -> None:
    """What matters is where matches lie in memory, not where windows do."""
    content = b"a" * (2 * PAGE_SIZE - 1) + b"bab" + b"a" * (2 * PAGE_SIZE - 2)
    image = opened(stack, tmp_path, "mapped", {"ram": content})

    hits = [(hit.offset, hit.length) for hit in search(image, [regex("a{3}|ba|b")])]

    at, expected = 0, []
    while at < len(content):
        one = next(w for w in (b"aaa", b"ba", b"b", b"a") if content.startswith(w, at))
        if one != b"a":
            expected.append((at, len(one)))
        at += len(one)
    assert hits == expected


@needs_re2
def test_word_borders_and_ends_are_those_of_memory(stack: ExitStack, tmp_path: Path) -> None:
    content = put(bytes(4 * PAGE_SIZE), 2 * PAGE_SIZE - 1, b"xneedle")
    content = put(content, 3 * PAGE_SIZE, b"needle")
    image = opened(stack, tmp_path, "mapped", {"ram": content, "rom": b"needle" + bytes(4090)})

    assert [hit.offset for hit in search(image, [regex(r"\bneedle")])] == [3 * PAGE_SIZE, 0]
    assert [hit.block for hit in search(image, [regex("^needle")])] == ["rom"]


@needs_re2
def test_long_matches_are_cut(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", {"ram": b"x" * (20 * PAGE_SIZE)})

    assert [hit.length for hit in search(image, [regex("x+")])] == [MATCH_LIMIT] * 5


@needs_re2
def test_an_evil_expression_takes_no_longer(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", {"ram": b"a" * (64 * PAGE_SIZE)})
    began = time.process_time()

    assert not list(search(image, [regex("(a+)+b"), regex("(a|aa)*c"), regex("(.*)(.*)(.*)z")]))
    assert time.process_time() - began < 20


def test_text_in_encodings_and_cases(stack: ExitStack, tmp_path: Path) -> None:
    words = b"Grusz " + "Grüße".encode() + "Grüße".encode("utf-16le") + b"\0\0gRUSZ@`"
    image = opened(stack, tmp_path, "mapped", {"ram": words.ljust(PAGE_SIZE, b"\0")})

    def found(*patterns: Matcher) -> list[bytes]:
        return [hit.data for hit in search(image, patterns)]

    assert found(text("Grüße")) == ["Grüße".encode()]
    assert found(text("Grüße", "utf-16le")) == ["Grüße".encode("utf-16le")]
    assert found(text("GRUSZ", ignore_case=True)) == [b"Grusz", b"gRUSZ"]
    if HAS_RE2:
        assert found(regex("GRUSZ", ignore_case=True)) == [b"Grusz", b"gRUSZ"]
    assert found(text("``", ignore_case=True)) == []


@pytest.mark.parametrize(
    ("make", "words", "reason"),
    [
        (hexadecimal, "4d5", "pairs"),
        (hexadecimal, "4dxx", "pairs"),
        (hexadecimal, "", "everything"),
        (hexadecimal, "????", "everything"),
        (text, "", "empty"),
        (text, "x" * 5000, "limit"),
        (escaped, r"\q", "escapes"),
        pytest.param(regex, "(", "expression", marks=needs_re2),
        pytest.param(regex, r"(a)\1", "expression", marks=needs_re2),
    ],
)
def test_patterns_that_make_no_sense(
    make: Callable[[str], object], words: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make(words)


def test_first_hits_come_early(stack: ExitStack, tmp_path: Path) -> None:
    """The first one is there before most of memory was read."""
    image = opened(stack, tmp_path, "mapped", {"ram": b"needle".ljust(PAGE_SIZE, b"x") * 400})
    done: list[int] = []

    hits = search(image, [text("needle")], progress=lambda progress: done.append(progress.done))
    assert len(list(islice(hits, 1))) == 1
    assert max(done, default=0) < 100 * PAGE_SIZE


def test_max_count_and_blocks(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", {"ram": RAM, "rom": padded_rom()})

    assert len(list(search(image, [text("needle")], max_count=2))) == 2
    assert [hit.block for hit in search(image, [text("needle")], blocks=["rom"])] == ["rom"]
    with pytest.raises(ValueError, match="nothing"):
        search(image, [])


def test_yara(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "sequential", {"ram": RAM})
    rules = tmp_path / "rules"
    rules.write_text(
        'rule Sewing { strings: $a = "needle" $b = { 6e 65 ?? 64 } condition: all of them }'
    )

    hits = list(search_rules(image, compile_rules(rules), max_count=None))

    assert {hit.offset for hit in hits} == set(NEEDLES)
    assert {hit.pattern for hit in hits} == {"Sewing $a", "Sewing $b"}
    rules.write_text("rule Broken {")
    with pytest.raises(ValueError, match="error"):
        compile_rules(rules)
    rules.write_text('include "/etc/passwd"')
    with pytest.raises(ValueError, match="include"):
        compile_rules(rules)


# --- addresses ---


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaveImage]:
    """A real guest whose pages tell their own addresses."""
    with savefmt.open(load.unpack("guest/q35-3g-hole", tmp_path_factory.mktemp("guest"))) as image:
        yield image


def test_hits_have_the_addresses_of_the_guest(guest: SaveImage) -> None:
    places = Places(guest, guest.guest.space(0))

    hits = list(search(guest, [literal(b"EVAS")], places=places, max_count=50))

    assert len(hits) == 50
    for hit in hits:
        assert hit.physical
        assert all(guest.guest.physical.read(at, 4) == hit.data for at in hit.physical)
        assert hit.virtual
        assert all(guest.guest.space(0).read(at, 4) == hit.data for at in hit.virtual)


def test_every_virtual_address_is_one_that_the_walk_finds(guest: SaveImage) -> None:
    space = guest.guest.space(0)
    reverse = ReverseMap(space)

    assert reverse.complete
    for address in (0, 0x1000, 0x100000, 0x3FFFFF, 0x1FFFFF):
        physical = space.translate(address).physical
        found = reverse.addresses(physical)
        assert address in found
        assert {space.translate(at).physical for at in found} == {physical}


def test_virtual_addresses_of_arm(tmp_path: Path) -> None:
    with savefmt.open(load.unpack("guest/virt-16m", tmp_path)) as image:
        space = image.guest.space(0)
        reverse = ReverseMap(space)

        assert reverse.complete
        physical = space.translate(0xFFFF_0000_0000_3008).physical
        found = reverse.addresses(physical)
        assert 0xFFFF_0000_0000_3008 in found
        assert {space.translate(at).physical for at in found} == {physical}


# --- many texts at once ---


def many_texts(dice: random.Random) -> list[Matcher]:
    """Texts of few letters, so that they overlap and begin alike; and what is no text."""
    texts: list[Matcher] = [
        literal(
            bytes(dice.choices(b"abA\0\xff\n", k=dice.choice((1, 2, 3, 9)))),
            f"{number}",
            ignore_case=number % 3 == 0,
        )
        for number in range(40)
    ]
    return [*texts, hexadecimal("61 ?? 62"), *([regex("b+a")] if HAS_RE2 else [])]


def test_many_texts_are_found_as_each_alone(stack: ExitStack, tmp_path: Path) -> None:
    dice = random.Random(5)
    content = bytes(dice.choices(b"abAB\0\xff\n", k=5 * PAGE_SIZE)) + bytes(3 * PAGE_SIZE)
    image = opened(stack, tmp_path, "mapped", {"ram": content})
    patterns = many_texts(dice)

    together = sorted((hit.pattern, hit.offset, hit.data) for hit in search(image, patterns))

    alone = [hit for pattern in patterns for hit in search(image, [pattern])]
    assert together == sorted((hit.pattern, hit.offset, hit.data) for hit in alone)
    assert len(together) > 1000


def test_short_texts_and_wildcards_go_along_with_many_texts(
    stack: ExitStack, tmp_path: Path
) -> None:
    content = b"\0the needle 007 and needle 299.".ljust(PAGE_SIZE, b"\0")
    image = opened(stack, tmp_path, "mapped", {"ram": content})
    texts = [literal(f"needle {number:03}".encode()) for number in range(300)]
    patterns = [*texts, hexadecimal("6e ?? 65"), *(literal(bytes([at])) for at in b"theabcxyz")]

    hits = [(hit.offset, hit.data) for hit in search(image, patterns, max_count=6)]

    assert hits == [(1, b"t"), (2, b"h"), (3, b"e"), (5, b"nee"), (5, b"needle 007"), (6, b"e")]
    assert count(image, patterns) == len(list(search(image, patterns)))


def test_a_process_tells_where_its_stretches_lie() -> None:
    memory = ProcessMemory.__new__(ProcessMemory)
    mappings = [VirtualRange(0x1000, 0x7000, 0x2000), VirtualRange(0x3000, 0x1000, 0x1000)]
    memory._spaces = {"init(1)": _Space(mappings, [one.virtual for one in mappings])}

    def at(start: int, end: int) -> tuple[int, ...] | None:
        return memory.physical_of(Stretch("init(1)", start, end))

    assert at(0x1800, 0x3000) == (0x7800,)
    assert at(0x3000, 0x4000) == (0x1000,)
    assert at(0x2000, 0x3800) is None  # in two pieces
    assert at(0x3800, 0x5000) is None  # not mapped to its end
    assert at(0x9000, 0x9800) is None
    assert memory.physical("init(1)", 0x2FFF) == (0x8FFF,)


def test_of_the_memory_of_processes_what_is_lost_is_left_out() -> None:
    def pieces(address: int, length: int) -> list[tuple[SimpleNamespace, int, int]]:
        ram = SimpleNamespace(block="pc.ram")
        first = min(length, 0x8000 - address)
        return [(ram, address, first), (ram, 0, length - first)]

    def lost_bytes(block: str, offset: int, length: int) -> list[tuple[int, int]]:
        gone = range(0x7000, 0x9000), range(0x1000, 0x2000)
        found = [(max(offset, one.start), min(offset + length, one.stop)) for one in gone]
        return sorted((first, end) for first, end in found if first < end)

    memory = ProcessMemory.__new__(ProcessMemory)
    memory.lost_length = 0
    memory._physical = SimpleNamespace(pieces=pieces)  # type: ignore[assignment]
    memory.image = SimpleNamespace(rescue=None)  # type: ignore[assignment]
    mapping = VirtualRange(0x10000, 0x5000, 0x6000)  # its end lies at 0 in the block
    assert list(memory._recovered(mapping)) == [mapping]
    memory.image = SimpleNamespace(  # type: ignore[assignment]
        rescue=SimpleNamespace(lost_bytes=lost_bytes)
    )
    assert list(memory._recovered(mapping)) == [
        VirtualRange(0x10000, 0x5000, 0x2000),
        VirtualRange(0x13000, 0x8000, 0x1000),
        VirtualRange(0x15000, 0xA000, 0x1000),
    ]
    assert memory.lost_length == 0x2000
