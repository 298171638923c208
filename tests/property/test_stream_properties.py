"""Laws of the stream: it reads as the reference reads it, and damage never surprises."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builder import (
    DEFAULT_DEVICES,
    MIB,
    VIRTIO_MEM_EARLY,
    Device,
    Record,
    counted,
    make_envelope,
    make_stream,
    page,
    simple_device,
    subsection,
)
from deltas import apply_delta
from hypothesis import example, given
from hypothesis import strategies as st
from reference import apply_xbzrle, read_image

from savefmt.errors import CorruptError, SavefmtError, TruncatedError
from savefmt.format.configuration import Configuration
from savefmt.format.cursor import ChunkCursor, Cursor, FileCursor
from savefmt.format.mappedram import (
    bitmap_length,
    decode_bitmap,
    encode_bitmap,
    place_all,
    tell_bitmap_order,
)
from savefmt.format.ram import BlockList, read_block_list
from savefmt.format.stream import Command, SectionHead
from savefmt.format.vmstate import Description
from savefmt.format.wire import PAGE_SIZES, ItemType, RamFlag
from savefmt.reading.walk import Onlooker, StreamEnd, Take, Walk

# Walking as the package does, in the reference's terms.


class Walked(Onlooker):
    """Keeps all that a walk tells."""

    def __init__(self) -> None:
        self.configuration: Configuration | None = None
        self.blocks: BlockList | None = None
        self.commands: list[tuple[int, bytes]] = []
        self.devices: list[tuple[int, str, int, int, int, int, bytes]] = []
        self._payload = bytearray()

    def begin(self, configuration: Configuration | None) -> None:
        self.configuration = configuration

    def command(self, command: Command) -> None:
        self.commands.append((command.number, command.data))

    def section(self, head: SectionHead) -> Take:
        self._payload = bytearray()
        return self._payload.extend

    def ram_start(self, head: SectionHead, blocks: BlockList) -> Walked:
        self.blocks = blocks
        return self

    def take(self, cursor: Cursor) -> Iterator[int]:
        assert self.blocks is not None
        skip_records(cursor, self.blocks.page_size)
        yield cursor.tell()

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        if head.idstr == "ram":
            return
        payload = bytes(self._payload)
        offset = end - len(footer) - len(payload)
        numbers = head.instance_id, head.version, head.section_id
        self.devices.append((head.kind, head.idstr, *numbers, offset, payload))


def walk(cursor: Cursor) -> tuple[Walked, StreamEnd]:
    walked = Walked()
    return walked, Walk(cursor, walked).run()


def skip_records(cursor: Cursor, page_size: int) -> None:
    while not (flags := RamFlag(cursor.u64("a RAM word") & 0x3FF)) & RamFlag.EOS:
        if not flags & RamFlag.CONTINUE:
            cursor.counted("a RAM record")
        if flags & RamFlag.PAGE:
            cursor.skip(page_size, "a page")
        elif flags & RamFlag.ZERO:
            cursor.skip(1, "a zero page")
        elif flags & RamFlag.XBZRLE:
            cursor.skip(1)
            cursor.skip(cursor.u16("a delta"), "a delta")
        else:
            raise CorruptError("a word of no kind", offset=cursor.tell())


def file_cursor(data: bytes, offset: int = 0) -> FileCursor:
    return FileCursor(lambda length, at: data[at : at + length], offset, len(data))


def chunk_cursor(data: bytes, offset: int = 0) -> ChunkCursor:
    return ChunkCursor((data[at : at + 1000] for at in range(offset, len(data), 1000)), offset)


NAMES = st.text("abcdefghij./", min_size=1, max_size=12)
CONTENTS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(
    lambda seeds: b"".join(page(seed) if seed else bytes(4096) for seed in seeds)
)
COMMANDS = st.sampled_from([(1, b""), (2, b"ping"), (3, b""), (8, b"")])


@st.composite
def devices(draw: st.DrawFn) -> list[Device]:
    keys = draw(st.lists(st.tuples(NAMES, st.integers(0, 3)), unique=True, max_size=5))
    return [simple_device(name, draw(st.binary(max_size=40)), number) for name, number in keys]


SEEDS = st.dictionaries(
    NAMES, st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=3
)


def filled(seeds: dict[str, list[int]], unit: int = 4096) -> dict[str, bytes]:
    """Make blocks of pages; examples show seeds, because pages are long."""
    return {
        name: b"".join(page(seed, unit) if seed else bytes(unit) for seed in contents)
        for name, contents in seeds.items()
    }


OTHERS_END = make_stream(devices=[simple_device("other", b"of an older guest")])[-1500:]
NO_DESCRIPTION = st.sampled_from([b"", bytes(3), bytes(5000), b"what lay here before" * 99])
ANYTHING = NO_DESCRIPTION | st.sampled_from(
    [OTHERS_END, b"\0\x06\0\0\0\2{}", b"\x06\0\0\0\2{}", b"\x7e\0\0\0\x0a\0", b"\x01" * 30]
)

STREAMS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(["sequential", "mapped-ram"]),
        "prefix": st.sampled_from([b"", make_envelope(), make_envelope(padding=1)]),
        "uuid": st.sampled_from([None, bytes(range(16))]),
        "guest_addresses": st.sampled_from([None, {}]),
        "commands": st.lists(COMMANDS, max_size=2),
        "devices": devices(),
        "early": st.sampled_from([[], [VIRTIO_MEM_EARLY]]),
        "dirty_bitmaps": st.booleans(),
        "parts": st.integers(1, 3),
        "names_survive": st.booleans(),
        "switchover": st.booleans(),
        "footers": st.booleans(),
        "ram_end": st.booleans(),
        "align": st.sampled_from([4096, MIB]),
    }
)


@given(
    options=STREAMS,
    seeds=SEEDS,
    unit=st.sampled_from(PAGE_SIZES),
    rest=st.tuples(st.just(True), ANYTHING) | st.tuples(st.just(False), NO_DESCRIPTION),
    make_cursor=st.sampled_from([file_cursor, chunk_cursor]),
)
def test_walk_matches_the_reference(
    options: dict[str, Any],
    seeds: dict[str, list[int]],
    unit: int,
    rest: tuple[bool, bytes],
    make_cursor: Callable[[bytes, int], Cursor],
) -> None:
    """Same commands, sections, payloads, blocks, and the end of the stream at its end."""
    description, trailing = rest
    blocks = filled(seeds, unit)
    options = options | {"footers": options["footers"] or not description}
    options["align"] = max(options["align"], unit)
    stream = make_stream(**options, unit=unit, blocks=blocks, description=description)
    data = stream + trailing
    expected = read_image(stream, page_size=unit)
    walked, end = walk(make_cursor(data, expected.stream_offset))

    assert end.end == expected.end == len(stream)
    assert end.followed is bool(trailing)
    assert (end.description is not None) is description
    assert walked.configuration is not None
    assert list(walked.configuration.capabilities) == expected.capabilities
    assert walked.configuration.uuid == expected.uuid
    assert walked.commands == expected.commands
    assert walked.devices == [
        (d.kind, d.idstr, d.instance_id, d.version, d.section_id, d.offset, d.payload)
        for d in expected.devices
    ]
    assert [section.offset for section in end.sections] == [
        d.offset for d in expected.devices if d.kind == ItemType.FULL
    ]
    assert walked.blocks is not None
    assert walked.blocks.page_size == unit or not tells_page_size(seeds)
    assert {block.idstr: block.used_length for block in walked.blocks.blocks} == {
        name: len(block.content) for name, block in expected.blocks.items()
    }
    for block in walked.blocks.blocks:
        pages = block.header.pages_offset if block.header else None
        assert pages == expected.blocks[block.idstr].pages_offset
    assert {name: bytes(block.content) for name, block in expected.blocks.items()} == blocks


def tells_page_size(seeds: dict[str, list[int]]) -> bool:
    """Whether the records of these pages can be of one size alone."""
    return any(len(contents) > 1 or any(contents) for contents in seeds.values())


@given(
    options=STREAMS,
    seeds=SEEDS,
    place=st.floats(0, 1, exclude_max=True) | st.integers(-40, 20),
)
def test_truncation_is_told_at_its_place(
    options: dict[str, Any], seeds: dict[str, list[int]], place: float
) -> None:
    """Wherever the file ends, the error says there; most often it ends near the EOF mark."""
    data = make_stream(**options | {"align": 4096, "footers": True}, blocks=filled(seeds))
    start = len(options["prefix"])
    whole = data.rindex(b"\0\x06", 0, data.rindex(b'"page_size"'))
    near = whole + place if isinstance(place, int) else start + place * (len(data) - start)
    cut = max(int(near), start + 1)

    for make_cursor in (file_cursor, chunk_cursor):
        if cut == whole + 1:  # nothing but the description is gone
            assert walk(make_cursor(data[:cut], start))[1].description is None
            continue
        with pytest.raises(TruncatedError) as caught:
            walk(make_cursor(data[:cut], start))
        assert caught.value.offset == cut


SMALL = [
    make_stream(layout=layout, align=4096, dirty_bitmaps=True, early=[VIRTIO_MEM_EARLY])
    for layout in ("sequential", "mapped-ram")
]


@given(
    image=st.sampled_from(SMALL),
    # Most bytes are page content, so aim at the rest.
    places=st.lists(
        st.tuples(st.booleans(), st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4
    ),
)
def test_damage_raises_only_our_errors(image: bytes, places: list[tuple[bool, int, int]]) -> None:
    """A changed byte is either harmless or refused as what it is."""
    damaged = bytearray(image)
    for from_end, place, value in places:
        damaged[-1 - place * 4 if from_end else place] = value

    with contextlib.suppress(SavefmtError):
        walk(file_cursor(bytes(damaged)))


# Configuration and description.


@given(
    machine=st.binary(max_size=20),
    bits=st.none() | st.integers(10, 16),
    names=st.none() | st.lists(st.text("abc-", max_size=9), unique=True, min_size=1, max_size=3),
    uuid=st.none() | st.binary(min_size=16, max_size=16),
    order=st.permutations(range(3)),
)
def test_configuration_there_and_back(
    machine: bytes, bits: int | None, names: list[str] | None, uuid: bytes | None, order: list[int]
) -> None:
    """Any order of subsections survives a switch there and back, byte for byte."""
    parts = [
        subsection("configuration/target-page-bits") + (bits or 0).to_bytes(4, "big"),
        subsection("configuration/capabilities")
        + len(names or []).to_bytes(4, "big")
        + b"".join(map(counted, names or [])),
        subsection("configuration/uuid") + (uuid or b""),
    ]
    wanted = [index for index in order if (bits, names, uuid)[index] is not None]
    head = b"\x07" + len(machine).to_bytes(4, "big") + machine
    raw = head + b"".join(parts[index] for index in wanted)
    configuration = Configuration.read(file_cursor(raw))
    mapped = configuration.with_capability("mapped-ram", True)

    assert configuration.raw == raw
    assert configuration.capabilities == tuple(names or ())
    assert mapped.capabilities == (*(names or ()), "mapped-ram")
    assert Configuration.read(file_cursor(mapped.raw)) == mapped
    assert mapped.with_capability("mapped-ram", False) == configuration


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
OTHERS = st.dictionaries(st.text('xyz"\\{é', max_size=4), VALUES, max_size=3)
SUBSECTIONS = st.lists(
    st.sampled_from(["configuration/target-page-bits", "configuration/uuid", "x"]).map(
        lambda name: {"vmsd_name": name, "fields": []}
    ),
    min_size=1,
    max_size=3,
)


@given(
    before=OTHERS,
    configuration=OTHERS,
    subsections=st.none() | SUBSECTIONS,
    after=OTHERS,
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
)
def test_description_there_and_back(
    before: dict[str, Any],
    configuration: dict[str, Any],
    subsections: list[Any] | None,
    after: dict[str, Any],
    indent: int | None,
    ascii_only: bool,
) -> None:
    """However the JSON is written, the switch leaves no other trace and can be undone."""
    if subsections is not None:
        configuration = configuration | {"subsections": subsections}
    document = before | {"configuration": configuration} | after
    raw = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    description = Description.parse(raw, 0)
    mapped = description.with_capability("mapped-ram", True)

    listed = mapped.document["configuration"]["subsections"]
    ours = [entry for entry in listed if entry["vmsd_name"] == "configuration/capabilities"]
    assert len(ours) == 1
    assert [entry for entry in listed if entry not in ours] == (subsections or [])
    assert len(mapped.raw) > len(raw)
    assert mapped.with_capability("mapped-ram", True) is mapped
    assert mapped.with_capability("mapped-ram", False).raw == raw


@given(raw=st.binary(max_size=60), text=st.text('{}[]":,0e-.\\ "size', max_size=40))
def test_any_text_is_description_or_error(raw: bytes, text: str) -> None:
    """Only our errors leave."""
    for candidate in (raw, text.encode(), b'{"devices": [' + raw + b"]}"):
        with contextlib.suppress(SavefmtError):
            Description.parse(candidate, 0).with_capability("mapped-ram", True)


# Pages.


def pack_uleb(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


@given(
    runs=st.lists(st.tuples(st.integers(1, 300), st.binary(min_size=1, max_size=300)), max_size=5),
    from_start=st.booleans(),
)
@example(runs=[(1, b"\0" * 300)], from_start=True)
def test_delta_matches_the_reference(runs: list[tuple[int, bytes]], from_start: bool) -> None:
    """Slow and obvious agree on every valid delta."""
    if runs and from_start:
        runs[0] = (0, runs[0][1])
    delta = b"".join(pack_uleb(keep) + pack_uleb(len(new)) + new for keep, new in runs)
    before = page(7)
    after = bytearray(before)
    apply_delta(after, delta)

    assert bytes(after) == apply_xbzrle(before, delta)


@given(delta=st.lists(st.sampled_from([0, 1, 2, 3, 0x80, 0xFF]), max_size=64).map(bytes))
def test_any_delta_is_applied_or_refused(delta: bytes) -> None:
    """What is not refused is what the reference makes of it."""
    before = page(7, 64)
    after = bytearray(before)
    with contextlib.suppress(CorruptError):
        apply_delta(after, delta)
        assert bytes(after) == apply_xbzrle(before, delta)


@given(present=st.lists(st.booleans(), min_size=1, max_size=300))
@example(present=[True] * 64)
@example(present=[False] * 64 + [True])
def test_bitmap_of_either_order(present: list[bool]) -> None:
    """Both readings give the pages that were set, and data tell the order."""
    count = len(present)
    words = [0] * (bitmap_length(count) // 8)
    for index in range(count):
        words[index // 64] |= present[index] << index % 64
    little = b"".join(number.to_bytes(8, "little") for number in words)
    big = b"".join(number.to_bytes(8, "big") for number in words)

    for raw, order in ((little, "little"), (big, "big")):
        bitmap = bytearray(raw)
        assert decode_bitmap(bitmap, count, order) == 0  # type: ignore[arg-type]
        number = int.from_bytes(bitmap, "little")
        assert [bool(number >> index & 1) for index in range(count)] == present
        assert encode_bitmap(bitmap, order) == raw  # type: ignore[arg-type]
        told = tell_bitmap_order([(raw, count)], [lambda _, index: present[index]])
        assert told == order or (told is None and little == big)


@given(present=st.lists(st.booleans(), min_size=64, max_size=200), stray=st.integers(1, 63))
def test_one_stray_bit_never_turns_the_bitmaps_round(present: list[bool], stray: int) -> None:
    """A stray bit in a ROM of one page leaves the order as it is, or all is refused."""
    count = len(present) // 64 * 64
    bits = sum(1 << index for index in range(count) if present[index])
    little = bits.to_bytes(bitmap_length(count), "little")
    rom = (1 << stray).to_bytes(8, "little"), 1

    def has_data(number: int, page: int) -> bool:
        return number == 0 and present[page]

    try:
        told = tell_bitmap_order([(little, count), rom], [has_data])
    except CorruptError:
        assert stray == 56
    else:
        assert told == "little" or little == encode_bitmap(little, "big")


@given(blocks=st.dictionaries(NAMES, CONTENTS, min_size=1, max_size=4), at=st.integers(0, 5000))
def test_plan_is_where_the_builder_writes(blocks: dict[str, bytes], at: int) -> None:
    """Arithmetic and a builder that appends byte by byte come to the same places."""
    data = make_stream(layout="mapped-ram", prefix=bytes(at), blocks=blocks, devices=[])
    cursor = file_cursor(data, data.index(b"\x03ram\0\0\0\0\0\0\0\4", at) + 12)
    listed = read_block_list(cursor, mapped=True)
    placements = place_all(listed.blocks, listed.offset, 4096)

    for placement, block in zip(placements, listed.blocks, strict=True):
        assert placement.header == block.header
        assert placement.entry_offset == block.offset


# The helpers themselves: later tests lean on them.


def test_last_record_wins_in_the_reference() -> None:
    old, new = page(1), page(2)
    rounds = [
        [Record("a", 0, old), Record("a", 1), Record("b", 0, old), Record("b", 1, old)],
        [Record("a", 0, new), Record("a", 1, new), Record("b", 0), Record("b", 0, delta=b"\5\1x")],
        [Record("a", 1), Record("b", 0, delta=b"\5\1y")],
    ]
    blocks = {"a": bytes(8192), "b": bytes(8192)}
    image = read_image(make_stream(blocks=blocks, rounds=rounds, last_round=[Record("b", 1)]))

    assert image.blocks["a"].content == new + bytes(4096)
    assert image.blocks["b"].content == b"\0\0\0\0\0y".ljust(8192, b"\0")
    assert image.blocks["a"].present == {0}
    assert image.blocks["b"].zero == {1}


def test_stale_pages_are_zero_in_the_reference() -> None:
    blocks = {"a": page(1) + bytes(8192)}
    data = make_stream(
        layout="mapped-ram",
        blocks=blocks,
        stale={("a", 1): page(9)},
        explicit_zeros={("a", 2)},
        bitmap_order="big",
    )
    image = read_image(data, bitmap_order="big")

    assert page(9) in data
    assert image.blocks["a"].content == blocks["a"]
    assert image.blocks["a"].present == {0, 2}
    assert image.blocks["a"].zero == {1}


def test_reference_needs_no_description() -> None:
    with_it, without = read_image(make_stream()), read_image(make_stream(description=False))

    assert [d.payload for d in with_it.devices] == [d.content.wire() for d in DEFAULT_DEVICES]
    assert with_it.devices == without.devices
