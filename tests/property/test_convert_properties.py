"""Laws of conversion: the guest survives any way there and back, and damage never surprises."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from builder import (
    DEFAULT_DEVICES,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    Record,
    all_records,
    make_envelope,
    make_stream,
    page,
    simple_device,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import CODECS, assert_same_guest, compress, digests, hold

import savefmt
from savefmt import (
    CheckLevel,
    CheckReport,
    ConversionReport,
    IOOptions,
    Layout,
    SavefmtError,
    TruncatedError,
)

IO = IOOptions(threads=1, window=1 << 20)
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None

MANY = settings(max_examples=6 * settings().max_examples)
"""Damage is found by trying much; each try is short."""

Result = ConversionReport | CheckReport | str


@contextmanager
def image(data: bytes) -> Iterator[Path]:
    """Put bytes into a folder of their own."""
    with TemporaryDirectory(dir=FOLDER) as folder:
        path = Path(folder) / "image"
        path.write_bytes(data)
        yield path


def digest(path: Path) -> str:
    with savefmt.open(path, io=IO) as opened:
        return opened.memory.digest()


# There and back.


@st.composite
def contents(draw: st.DrawFn) -> dict[str, bytes]:
    """Blocks of a few pages, many of them alike or zero."""
    names = draw(st.lists(st.sampled_from(["pc.ram", "a", "b/c", "é"]), unique=True, max_size=3))
    seeds = st.integers(0, 3)
    return {
        name: b"".join(
            page(seed) if seed else bytes(PAGE_SIZE)
            for seed in draw(st.lists(seeds, min_size=1, max_size=9))
        )
        for name in names
    }


@st.composite
def rounds(draw: st.DrawFn, blocks: dict[str, bytes]) -> list[list[Record]]:
    """What a live save sends: all pages once, then some again, as data, zeros or deltas."""
    sent = [all_records(blocks)]
    places = [(name, i) for name in blocks for i in range(len(blocks[name]) // PAGE_SIZE)]
    if not places:
        return sent
    for _ in range(draw(st.integers(0, 2))):
        again = []
        for name, index in draw(st.lists(st.sampled_from(places), max_size=6)):
            kind = draw(st.sampled_from(["zero", "data", "zeros", "delta", "nothing"]))
            record = {
                "zero": Record(name, index),
                "data": Record(name, index, page(draw(st.integers(4, 9)))),
                "zeros": Record(name, index, bytes(PAGE_SIZE)),
                "delta": Record(name, index, delta=bytes([draw(st.integers(0, 90)), 2]) + b"xy"),
                "nothing": Record(name, index, delta=b""),
            }[kind]
            again.append(record)
        sent.append(again)
    return sent


@given(st.data())
def test_sequential_to_sparse_and_back_keeps_the_guest(data: st.DataObject) -> None:
    blocks = data.draw(contents())
    stream = make_stream(
        blocks=blocks,
        rounds=data.draw(rounds(blocks)),
        early=data.draw(st.sampled_from([[], [VIRTIO_MEM_EARLY]])),
        names_survive=data.draw(st.booleans()),
        description=data.draw(st.booleans()),
        ram_end=data.draw(st.booleans()),
    )
    codec = data.draw(st.sampled_from(CODECS))
    prefix = data.draw(st.sampled_from([b"", make_envelope(format=CODECS.index(codec))]))
    with image(prefix + compress(codec, stream)) as source:
        sparse, back = source.with_name("sparse"), source.with_name("back")

        savefmt.convert(source, sparse, layout=Layout.MAPPED_RAM, io=IO, verify=True)
        savefmt.convert(sparse, back, layout=Layout.SEQUENTIAL, io=IO, verify=True)

        before = hold(source).image
        assert_same_guest(before, hold(sparse).image)
        assert_same_guest(before, hold(back).image)
        assert digest(source) == digest(sparse) == digest(back)
        assert savefmt.compare(source, back, io=IO).same


@given(st.data())
def test_sparse_to_sequential_and_back_is_the_same_file(data: st.DataObject) -> None:
    blocks = data.draw(contents())
    places = [(name, i) for name in blocks for i in range(len(blocks[name]) // PAGE_SIZE)]
    some = st.frozensets(st.sampled_from(places)) if places else st.just(frozenset())
    stream = make_stream(
        layout="mapped-ram",
        blocks=blocks,
        parts=data.draw(st.integers(0, 3)),
        ram_end=data.draw(st.booleans()),
        explicit_zeros=data.draw(some),
        early=data.draw(st.sampled_from([[], [VIRTIO_MEM_EARLY]])),
        uuid=data.draw(st.sampled_from([None, bytes(16)])),
        description=data.draw(st.booleans()),
        prefix=data.draw(st.sampled_from([b"", make_envelope(format=6, padding=77)])),
    )
    with image(stream) as source:
        sequential, back = source.with_name("sequential"), source.with_name("back")

        savefmt.convert(source, sequential, layout=Layout.SEQUENTIAL, io=IO)
        savefmt.convert(sequential, back, layout=Layout.MAPPED_RAM, io=IO)

        assert back.read_bytes() == stream


# Damage.

BLOCKS = {"pc.ram": page(0) + bytes(PAGE_SIZE) + page(2), "r": page(9)}
LIVE = [all_records(BLOCKS), [Record("pc.ram", 0, delta=b"\x05\x01x"), Record("r", 0)]]
SHAPES: list[dict[str, Any]] = [
    {},
    {"early": [VIRTIO_MEM_EARLY], "parts": 2},
    {"description": False},
    {"dirty_bitmaps": True, "commands": [(3, b"")]},
    {"rounds": LIVE},
    {"ram_end": False},
    {"configuration": False},
    {"uuid": bytes(16), "page_bits": 12},
]


def whole_images() -> list[bytes]:
    """Small images of every form."""
    images = [make_stream(blocks=BLOCKS, **shape) for shape in SHAPES]
    images += [
        make_stream(layout="mapped-ram", blocks=BLOCKS, align=PAGE_SIZE, **shape)
        for shape in SHAPES
        if "rounds" not in shape and "configuration" not in shape
    ]
    for order in ("little", "big"):
        for version in (1, 2, 3):
            prefix = make_envelope(version=version, order=order, cookie=b"<cookie/>", padding=40)
            images.append(prefix + make_stream(blocks=BLOCKS))
        images.append(
            make_stream(
                layout="mapped-ram",
                blocks=BLOCKS,
                align=PAGE_SIZE,
                prefix=make_envelope(format=6, order=order, padding=40),
                bitmap_order=order,
            )
        )
    for number, codec in enumerate(CODECS[1:], 1):
        packed = compress(codec, make_stream(blocks=BLOCKS))
        images += [packed, make_envelope(format=number, padding=40) + packed]
    return images


IMAGES = whole_images()
# Without footers and description nothing tells where the device sections end.
WITH_FOOTERS = len(IMAGES)
IMAGES.append(make_stream(blocks=BLOCKS, footers=False, description=False))


def attempt(function: Callable[[], Result]) -> Result | SavefmtError:
    """Run and return what came of it; anything but a result or our error is a failure."""
    began = time.monotonic()
    try:
        result: Result | SavefmtError = function()
    except SavefmtError as error:
        result = error
    assert time.monotonic() - began < 20
    if isinstance(result, SavefmtError):
        assert result.message
        assert result.path is not None
    return result


@dataclass
class Outcome:
    """What became of an image: of each thing tried, and the blocks of what was converted."""

    full: Result | SavefmtError
    converted: dict[Layout, Result | SavefmtError] = field(default_factory=dict)
    blocks: dict[Layout, dict[str, str]] = field(default_factory=dict)


def peak_kib() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


NO_MEMORY = hashlib.sha256().hexdigest()


def without_ram(path: Path) -> bool:
    """Whether an image is of devices alone."""
    with savefmt.open(path, io=IO) as opened:
        return opened.head.ram is None


def survive(data: bytes, *, examine: bool = False) -> Outcome:
    """Do all that one can do with an image, in one process that must stay small.

    With `examine` the results go through the reference, which wants sound devices.
    """
    before_kib = peak_kib()
    with image(data) as path:
        attempt(lambda: savefmt.check(path, io=IO))
        attempt(lambda: str(savefmt.probe(path)))
        before = attempt(lambda: digest(path))
        outcome = Outcome(attempt(lambda: savefmt.check(path, level=CheckLevel.FULL, io=IO)))
        for layout in Layout:
            target = path.with_name(layout.value)
            result = outcome.converted[layout] = attempt(partial(convert, path, target, layout))
            assert target.exists() == isinstance(result, ConversionReport)
            if isinstance(result, ConversionReport):
                # A flip can make another section of `ram`: then there is no memory to hash.
                assert result.digest == (NO_MEMORY if without_ram(path) else before)
                assert savefmt.compare(path, target, io=IO).same
                if examine:
                    outcome.blocks[layout] = digests(hold(target).image)
        assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]
    assert peak_kib() - before_kib < 200 << 10
    return outcome


def convert(source: Path, target: Path, layout: Layout) -> ConversionReport:
    return savefmt.convert(source, target, layout=layout, codec="raw", io=IO, verify=True)


def assert_noticed(outcome: Outcome) -> None:
    """What a conversion refuses is amiss to a full check, too."""
    refused = isinstance(outcome.converted[Layout.SEQUENTIAL], SavefmtError)
    if refused and isinstance(outcome.full, CheckReport):
        assert not outcome.full.ok


def interesting(data: bytes) -> list[int]:
    """Places outside of page content and padding: headers, names, numbers, JSON."""
    places = []
    for at in range(len(data)):
        around = data[max(at - 12, 0) : at + 13]
        if len(set(around)) > 5:
            places.append(at)
    return places


PLACES = [interesting(data) for data in IMAGES]


@MANY
@given(st.data())
def test_a_truncation_anywhere_ends_well(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, WITH_FOOTERS - 1))
    places = st.sampled_from(PLACES[number])
    assert_cut_ends_well(number, data.draw(places | st.integers(0, len(IMAGES[number]) - 1)))


DESCRIBED = [number for number, data in enumerate(IMAGES) if b'{"configuration"' in data]


@pytest.mark.parametrize("number", DESCRIBED)
def test_a_cut_behind_the_eof_mark_loses_no_memory(number: int) -> None:
    """The one cut that converts; chance seldom finds it."""
    assert_cut_ends_well(number, IMAGES[number].index(b'{"configuration"') - 5)


def assert_cut_ends_well(number: int, cut: int) -> None:
    outcome = survive(IMAGES[number][:cut], examine=True)

    assert_noticed(outcome)
    for blocks in outcome.blocks.values():  # only what follows the EOF mark can be missing
        with image(IMAGES[number]) as path:
            assert blocks == digests(hold(path).image)


@MANY
@given(
    number=st.integers(0, len(IMAGES) - 1),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=3),
)
@example(number=0, flips=[(8, 255)])
def test_flipped_bytes_end_well(number: int, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(IMAGES[number])
    for place, flip in flips:
        damaged[PLACES[number][place % len(PLACES[number])]] ^= flip

    assert_noticed(survive(bytes(damaged)))


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_every_header_byte_flipped_both_ways(layout: str) -> None:
    """All of them, in an envelope and in the head of a stream; two values each."""
    prefix = make_envelope(format=6 if layout == "mapped-ram" else 0, xml=b"<domain/>", padding=9)
    whole = make_stream(layout=layout, prefix=prefix, blocks={"r": page(1)}, align=PAGE_SIZE)
    end = whole.index(page(1)[:8]) if layout == "sequential" else whole.index(b"\1r") + 46
    for place in range(end):
        for flip in (0x01, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            with image(bytes(damaged)) as path:
                attempt(partial(savefmt.check, path, level=CheckLevel.FULL))
                attempt(partial(convert, path, path.with_name("target"), Layout.SEQUENTIAL))


@MANY
@given(tail=st.binary(max_size=64), cut=st.integers(0))
def test_garbage_behind_a_head_ends_well(tail: bytes, cut: int) -> None:
    head = make_stream(blocks=BLOCKS, devices=[*DEFAULT_DEVICES, simple_device("d", b"x")])
    survive(head[: cut % len(head)] + tail)


def test_a_sequential_stream_cut_inside_tells_where() -> None:
    whole = make_stream(blocks=BLOCKS)
    for cut in range(40, whole.index(b"timer"), 997):
        with image(whole[:cut]) as path, pytest.raises(TruncatedError) as caught:
            savefmt.convert(path, path.with_name("target"), layout=Layout.MAPPED_RAM, io=IO)
        assert caught.value.offset == cut


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_no_cut_among_the_devices_passes(layout: str) -> None:
    whole = make_stream(layout=layout, blocks=BLOCKS, align=PAGE_SIZE)
    first = whole.index(b"\x04\0\0\0\n\5timer")
    eof = whole.index(b"\x06", whole.index(b"\x7e\0\0\0\x0c")) - 1
    assert whole[eof] == 0

    for cut in range(first, eof + 1):
        with image(whole[:cut]) as path:
            assert isinstance(
                attempt(partial(savefmt.convert, path, "unused", codec="null", io=IO)),
                TruncatedError,
            )
