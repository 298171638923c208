"""Hashes, texts, statistics and pictures of memory, against slow plain ways to get them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from math import log2
from pathlib import Path

import pytest
from blake3 import blake3
from builder import PAGE_SIZE, page
from PIL import Image
from scanning import FORMS, opened
from xxhash import xxh3_128

from savefmt import AddressError, ConversionError, PhysicalRange, SaveImage
from savefmt.cli.render.strings import lines_as
from savefmt.guest.blockaddresses import BlockAddresses
from savefmt.native.content import LineFormat, text_lines
from savefmt.scan import strings as strings_module
from savefmt.scan import windows
from savefmt.scan.hashes import Manifest, check_manifest, hash_memory, manifest_lines
from savefmt.scan.picture import draw
from savefmt.scan.results import Area, MemoryHash
from savefmt.scan.search import Places
from savefmt.scan.stats import stats
from savefmt.scan.strings import string_lines, strings

DICE = random.Random(4)
BLOCKS = {
    "zz\n\\ram": b"".join(
        bytes(PAGE_SIZE) if n % 3 == 0 else page(n % 7) if n % 3 == 1 else DICE.randbytes(PAGE_SIZE)
        for n in range(24)
    ),
    "aa": page(1) + bytes(PAGE_SIZE),
    "none": bytes(2 * PAGE_SIZE),
}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_LENGTH", 2 * PAGE_SIZE)


@pytest.fixture(params=FORMS)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SaveImage]:
    """The same guest in every form."""
    with ExitStack() as stack:
        yield opened(stack, tmp_path, request.param, BLOCKS)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened_images:
        yield opened_images


# --- hashes ---


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [("sha256", hashlib.sha256), ("md5", hashlib.md5), ("blake3", blake3), ("xxh3", xxh3_128)],
)
def test_hashes_are_those_of_the_content(algorithm: str, make: type, image: SaveImage) -> None:
    hashes = list(hash_memory(image, algorithm, pages=True))

    for one in hashes[:-1]:
        content = BLOCKS[one.block][one.offset :][: one.length]
        assert one.digest == make(content).hexdigest()
    assert Counter(one.kind for one in hashes) == {"page": 28, "block": 3, "memory": 1}
    lines = "".join(
        f"{make(BLOCKS[name]).hexdigest()}  {len(BLOCKS[name])} {name}\n" for name in sorted(BLOCKS)
    )
    whole = make(lines.encode()).hexdigest()
    total = sum(map(len, BLOCKS.values()))
    assert hashes[-1] == MemoryHash("memory", "", 0, total, whole, algorithm)


@pytest.mark.parametrize("pages", [False, True])
def test_manifest_holds_for_the_same_guest(pages: bool, image: SaveImage) -> None:
    lines = list(manifest_lines("sha256", hash_memory(image, pages=pages), pages=pages))

    assert not any("\n" in line for line in lines)
    results = dict(check_manifest(image, Manifest(lines)))
    assert len(results) == len(lines) - 1
    assert set(results.values()) == {True}


def test_manifest_tells_what_changed(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", BLOCKS)
    lines = list(manifest_lines("sha256", hash_memory(image, pages=True), pages=True))
    changed = {**BLOCKS, "aa": page(1) + page(2)}
    del changed["none"]

    results = dict(check_manifest(opened(stack, tmp_path, "gzip", changed), Manifest(lines)))

    wrong = {label: good for label, good in results.items() if not good}
    missing = ("block:none", "page:none@0x0", "page:none@0x1000")
    assert wrong == {
        "page:aa@0x1000": False,
        "block:aa": False,
        "memory": False,
        **dict.fromkeys(missing),
    }


def test_manifest_in_another_order(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", BLOCKS)
    heading, *lines = manifest_lines("sha256", hash_memory(image))

    assert set(dict(check_manifest(image, Manifest([heading, *lines[::-1]]))).values()) == {True}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["# savefmt hash 1 crc32"],
        ["# savefmt hash 1 sha256"],
        ["# savefmt hash 1 sha256", "0123"],
        ["# savefmt hash 1 sha256", f"{'0' * 64}  file"],
        [f"{'0' * 64}  memory"],
    ],
)
def test_what_is_no_manifest(lines: list[str], stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", BLOCKS)

    with pytest.raises(ValueError, match=r"line|hash"):
        list(check_manifest(image, Manifest(lines)))


# --- texts ---


def slow_texts(content: bytes, least: int, encoding: str) -> list[tuple[int, str]]:
    """Find texts in one block by a regular expression."""
    forms = {
        "ascii": rb"[\t -~]",
        "utf-16le": rb"[\t -~]\0",
        "utf-16be": rb"\0[\t -~]",
    }
    width = 1 if encoding == "ascii" else 2
    found, at = [], 0
    expression = re.compile(b"(?:" + forms[encoding] + b")+")
    while at < len(content):
        match = expression.match(content, at)
        if match is None:
            at += width
            continue
        if match.end() - at >= least * width:
            found.append((at, match[0].decode(encoding)))
        at = match.end()
    return found


@pytest.mark.parametrize("encoding", ["ascii", "utf-16le", "utf-16be"])
@pytest.mark.parametrize("least", [1, 4, 9])
def test_texts(least: int, encoding: str, stack: ExitStack, tmp_path: Path) -> None:
    dice = random.Random(least)
    words = [
        "".join(dice.choices("ab ~\t", k=dice.choice((1, 3, 5, 12)))).encode(encoding)
        + dice.choice((b"\0\0", b"\x80\x80", b"\x01\x02"))
        for _ in range(10000)
    ]
    content = b"".join(words)[: 8 * PAGE_SIZE]
    content = content[: 3 * PAGE_SIZE] + bytes(PAGE_SIZE) + content[4 * PAGE_SIZE :]
    blocks = {"ram": content, "rom": b"abcd".ljust(PAGE_SIZE, b"a")}

    for form in FORMS:
        found = strings(opened(stack, tmp_path, form, blocks), least=least, encoding=encoding)
        assert [(text.block, text.offset, text.text) for text in found] == [
            (name, at, text)
            for name in blocks
            for at, text in slow_texts(blocks[name], least, encoding)
        ]


def test_long_texts_come_in_pieces(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, tmp_path: Path
) -> None:
    monkeypatch.setattr(strings_module, "PIECE_LENGTH", 3 * PAGE_SIZE)
    content = b"x" * (9 * PAGE_SIZE + 2) + bytes(PAGE_SIZE - 2)

    found = list(strings(opened(stack, tmp_path, "mapped", {"ram": content})))

    assert len(found) > 1
    assert "".join(text.text for text in found) == "x" * (9 * PAGE_SIZE + 2)
    ends = [text.offset + len(text.text) for text in found]
    assert [0, *ends[:-1]] == [text.offset for text in found]


class Seen(Places):
    """Addresses without a machine: the block, its middle hidden, and a copy of its end."""

    @cached_property
    def _placement(self) -> BlockAddresses:
        whole, part = 8 * PAGE_SIZE, 3 * PAGE_SIZE
        return BlockAddresses(
            [
                PhysicalRange(0x100000, part, "ram", 0, "ram", "test"),
                PhysicalRange(0x900000, part, "ram", whole - part, "ram", "test"),
                PhysicalRange(0x800000, part, "ram", whole - part, "ram", "test"),
            ]
        )


@pytest.mark.parametrize("window", [PAGE_SIZE, 1 << 20])
@pytest.mark.parametrize("style", ["block", "physical", "none", "jsonl"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-16be"])
def test_lines_of_the_core_are_those_of_python(
    encoding: str,
    style: str,
    window: int,
    monkeypatch: pytest.MonkeyPatch,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(windows, "WINDOW_LENGTH", window)
    dice = random.Random(style)
    content = b"".join(
        "".join(dice.choices('ab"\\~\t', k=dice.choice((1, 3, 5, 12)))).encode(encoding)
        + dice.choice((b"\0\0", b"\x80\x80"))
        for _ in range(9000)
    )
    image = opened(stack, tmp_path, "mapped", {"ram": content[: 8 * PAGE_SIZE]})
    lines = lines_as(style, Seen(image))

    made = b"".join(string_lines(image, lines, least=3, encoding=encoding))

    texts = list(strings(image, least=3, encoding=encoding))
    assert len(texts) > 1000
    assert made.decode().splitlines(keepends=True) == [lines.line(text) for text in texts]
    if style == "jsonl":
        assert [json.loads(line)["text"] for line in made.splitlines()] == [
            text.text for text in texts
        ]


def test_a_line_longer_than_the_buffer() -> None:
    content = b"\0" + b"\t" * (1 << 20) + b"\0abcd\0"

    made = text_lines(content, "ascii", 4, LineFormat([("hex", 0), ("text", 0), b"\n"]))

    assert made == b"0x1" + b"\\t" * (1 << 20) + b"\n0x100002abcd\n"


# --- statistics ---


def slow_entropy(data: bytes) -> float:
    return sum(n / len(data) * log2(len(data) / n) for n in Counter(data).values())


def test_statistics(image: SaveImage) -> None:
    result = stats(image)

    everything: Counter[bytes] = Counter()
    for block in result.blocks:
        content = BLOCKS[block.idstr]
        pages = [content[at : at + PAGE_SIZE] for at in range(0, len(content), PAGE_SIZE)]
        counts = Counter(one for one in pages if any(one))
        everything += counts
        assert (block.pages, block.zero) == (len(pages), len(pages) - counts.total())
        assert block.distinct == len(counts)
        assert block.unique == sum(count == 1 for count in counts.values())
        bits = [slow_entropy(one) for one in counts.elements()]
        assert block.entropy == pytest.approx(sum(bits) / max(len(bits), 1), abs=0.03)
        assert block.histogram == tuple(
            sum(min(int(value), 7) == bin for value in bits) for bin in range(8)
        )
    assert result.distinct == len(everything)
    assert result.unique == sum(count == 1 for count in everything.values())
    assert result.duplicate == everything.total() - len(everything)


# --- pictures ---


def rows_of(path: Path) -> list[list[tuple[int, ...]]]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        raw = picture.convert("RGB").tobytes()
    pixels = [tuple(raw[at : at + 3]) for at in range(0, len(raw), 3)]
    return [pixels[row * width : (row + 1) * width] for row in range(height)]


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
ZERO, DATA, ONE, ALL = (16, 16, 24), (70, 130, 200), (255, 214, 70), (170, 0, 30)


def square(rows: list[list[tuple[int, ...]]], area: Area, number: int) -> set[tuple[int, ...]]:
    """Return the colours of a square, without the line that parts it from the next one."""
    row, column = divmod(number, area.columns)
    left, top = area.left + column * area.scale, area.top + row * area.scale
    side = area.scale - (area.scale >= 4)
    return {rows[y][x] for y in range(top, top + side) for x in range(left, left + side)}


@pytest.mark.parametrize("width", [None, 10])
def test_picture_of_data(image: SaveImage, tmp_path: Path, width: int | None) -> None:
    picture = draw(image, tmp_path / "a.png", width=width)

    rows = rows_of(tmp_path / "a.png")
    assert (picture.width, picture.height) == (len(rows[0]), len(rows))
    assert picture.rows == {name: area.top for name, area in picture.areas.items()}
    assert list(picture.areas) == list(BLOCKS)
    for name, area in picture.areas.items():
        content = BLOCKS[name]
        count = len(content) // PAGE_SIZE
        for number in range(count):
            data = content[number * PAGE_SIZE :][:PAGE_SIZE]
            assert square(rows, area, number) == {DATA if any(data) else ZERO}
        # A border, and nothing behind the last page; small blocks have squares that one sees.
        assert area.scale > 4
        assert rows[area.top - 1][area.left] == rows[area.top][area.left - 1] == BLACK
        if count % area.columns:
            assert square(rows, area, count) <= {WHITE, BLACK}
        # Its name above it, and an address beside it.
        assert BLACK in {rows[area.top - 10][x] for x in range(area.left, area.left + 40)}
        assert BLACK in {rows[area.top + 4][x] for x in range(10, area.left - 10)}
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o600


def test_a_picture_has_a_legend(image: SaveImage, tmp_path: Path) -> None:
    picture = draw(image, tmp_path / "a.png", palette="entropy")

    rows = rows_of(tmp_path / "a.png")
    right = max(area.left + area.columns * area.scale for area in picture.areas.values()) + 10
    beside = {pixel for row in rows for pixel in row[right:]}
    assert {ZERO, (50, 100, 160), (60, 170, 120), (230, 200, 60), (240, 90, 60)} < beside


def test_picture_of_entropy(stack: ExitStack, tmp_path: Path) -> None:
    lone = b"x".ljust(PAGE_SIZE, b"\0")
    pages = [bytes(PAGE_SIZE), b"x" * PAGE_SIZE, lone, random.Random(1).randbytes(PAGE_SIZE)]
    blocks = {"ram": b"".join(pages)}
    image = opened(stack, tmp_path, "mapped", blocks)

    area = draw(image, tmp_path / "e.png", palette="entropy").areas["ram"]

    rows = rows_of(tmp_path / "e.png")
    (zero,), (orderly,), (lonely,), (noise,) = (square(rows, area, n) for n in range(4))
    assert zero == ZERO
    assert orderly == lonely == (32, 24, 80)
    assert noise[0] > 200


def test_one_changed_page_of_many_shows(stack: ExitStack, tmp_path: Path) -> None:
    content = page(1) * 6000 + bytes(6000 * PAGE_SIZE)
    small = page(3) * 3
    changed = bytearray(content)
    changed[777 * PAGE_SIZE] ^= 1
    for number in range(4000, 4008):
        changed[number * PAGE_SIZE] ^= 1
    image = opened(stack, tmp_path, "mapped", {"ram": bytes(changed), "rom": small})
    against = opened(stack, tmp_path, "gzip", {"ram": content, "rom": small})

    picture = draw(image, tmp_path / "c.png", palette="changed", against=against)

    rows, area = rows_of(tmp_path / "c.png"), picture.areas["ram"]
    each = area.pages
    assert 1 < each <= 8
    assert area.scale >= 8
    squares = [square(rows, area, number) for number in range(12000 // each)]
    assert squares[777 // each] == {ONE}
    assert squares[4000 // each] == {ALL}
    changes = {777 // each, *range(4000 // each, 4008 // each)}
    for number, colors in enumerate(squares):
        if number not in changes:
            assert colors == ({DATA} if number < 6000 // each else {ZERO}), number
    assert [picture.areas["rom"].pages, square(rows, picture.areas["rom"], 2)] == [1, {DATA}]


def test_names_cannot_get_out_of_a_picture(stack: ExitStack, tmp_path: Path) -> None:
    name = "\x1b[31m" + "\xe9" * 120
    image = opened(stack, tmp_path, "mapped", {name: page(1)})

    picture = draw(image, tmp_path / "n.png")

    assert list(picture.areas) == [name]


def test_pictures_that_cannot_be(stack: ExitStack, tmp_path: Path) -> None:
    image = opened(stack, tmp_path, "mapped", BLOCKS)
    other = opened(stack, tmp_path, "gzip", {"aa": page(1)})
    target = tmp_path / "there.png"
    target.write_bytes(b"mine")

    with pytest.raises(ConversionError, match="exists"):
        draw(image, target)
    with pytest.raises(ConversionError, match="missing"):
        draw(image, tmp_path / "new.png", palette="changed", against=other)
    with pytest.raises(ValueError, match="goes with"):
        draw(image, tmp_path / "new.png", palette="changed")
    with pytest.raises(ValueError, match="width"):
        draw(image, tmp_path / "new.png", width=0)
    with pytest.raises(AddressError):
        draw(image, tmp_path / "new.png", blocks=["bb"])
    assert target.read_bytes() == b"mine"
    assert not list(tmp_path.glob("*new*")) + list(tmp_path.glob(".*"))
