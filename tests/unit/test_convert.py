"""Converting any form into any other: the guest stays the same to the last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_BLOCKS,
    DEFAULT_DEVICES,
    MIB,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    Device,
    Fields,
    Record,
    all_records,
    make_envelope,
    make_stream,
    page,
    simple_device,
)
from oracle import CODECS, Held, assert_same_guest, compress, hold

import savefmt
from savefmt import ConversionError, CorruptError, IOOptions, Layout, UnsupportedError

FORMS = [*CODECS, "sparse"]
THREADS = IOOptions(threads=2)


def options_for(form: str) -> dict[str, Any]:
    """Return what `convert` takes for a name after -O."""
    if form == "sparse":
        return {"layout": Layout.MAPPED_RAM}
    return {"layout": Layout.SEQUENTIAL, "codec": form}


def make_image(form: str, *, enveloped: bool, **options: Any) -> bytes:
    """Return an image of that form; `options` are those of `make_stream`."""
    layout = "mapped-ram" if form == "sparse" else "sequential"
    prefix = b""
    if enveloped:
        prefix = make_envelope(format=FORMS.index(form), cookie=b"<cookie><cpu/></cookie>")
    if form in ("raw", "sparse"):
        return make_stream(layout=layout, prefix=prefix, **options)
    return prefix + compress(form, make_stream(layout=layout, **options))


def convert(folder: Path, data: bytes, form: str, **options: Any) -> Held:
    """Convert an image given as bytes, with verification, and take the result apart."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    chosen: dict[str, Any] = {"verify": True, "io": THREADS, **options_for(form), **options}
    report = savefmt.convert(source, target, **chosen)
    assert report.digest == digest(source)
    return hold(target)


def digest(path: Path) -> str:
    with savefmt.open(path) as image:
        return image.memory.digest()


def there_and_back(folder: Path, data: bytes) -> tuple[Held, Held]:
    """Convert to the other layout and back, and return both results."""
    source = folder / "original"
    source.write_bytes(data)
    first = "raw" if hold(source).image.layout == "mapped-ram" else "sparse"
    there = convert(folder, data, first)
    (folder / "target").rename(folder / "between")
    back = convert(folder, (folder / "between").read_bytes(), "sparse" if first == "raw" else "raw")
    return there, back


@pytest.mark.parametrize("enveloped", [False, True], ids=["bare", "libvirt"])
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_every_pair(source: str, target: str, enveloped: bool, tmp_path: Path) -> None:
    data = make_image(source, enveloped=enveloped, uuid=bytes(range(16)), parts=2)
    (tmp_path / "original").write_bytes(data)
    before = hold(tmp_path / "original")

    after = convert(tmp_path, data, target)

    assert_same_guest(before.image, after.image)
    assert after.image.layout == ("mapped-ram" if target == "sparse" else "sequential")
    assert after.codec == ("raw" if target == "sparse" else target)
    assert after.image.capabilities == (["mapped-ram"] if target == "sparse" else [])
    number = FORMS.index(target).to_bytes(4, "little") if enveloped else b""
    assert after.envelope == before.envelope[:28] + number + before.envelope[32:]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_form_is_a_copy(form: str, tmp_path: Path) -> None:
    data = make_image(form, enveloped=True)

    convert(tmp_path, data, form)

    assert (tmp_path / "target").read_bytes() == data


def test_by_default_the_form_stays(tmp_path: Path) -> None:
    for form in FORMS:
        data = make_image(form, enveloped=True)
        (tmp_path / "source").write_bytes(data)

        report = savefmt.convert(tmp_path / "source", tmp_path / form)

        assert (tmp_path / form).read_bytes() == data
        assert (report.source_layout, report.source_codec) == (
            report.target_layout,
            report.target_codec,
        )


def test_a_layout_may_be_given_by_its_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(make_stream(layout="sequential"))
    name: Any = "mapped-ram"

    assert savefmt.convert(source, target, layout=name).target_layout is Layout.MAPPED_RAM
    with savefmt.open(target) as image:
        assert image.layout is Layout.MAPPED_RAM
    for wrong in ("sparse", ""):
        name = wrong
        with pytest.raises(ValueError, match="not a valid Layout"):
            savefmt.convert(source, target, layout=name, overwrite=True)
        with pytest.raises(ValueError, match="not a valid CheckLevel"):
            savefmt.check(source, level=name)


def test_the_report_counts(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(make_image("raw", enveloped=True))

    report = savefmt.convert(
        tmp_path / "source", tmp_path / "target", layout=Layout.MAPPED_RAM, verify=True
    )

    assert report.version == 2
    assert report.data_pages == 5
    assert report.source_length == (tmp_path / "source").stat().st_size
    assert report.target_length == (tmp_path / "target").stat().st_size
    assert report.target_disk_length == (tmp_path / "target").stat().st_blocks * 512
    assert report.target_disk_length < report.target_length
    assert not report.dry_run


# Live streams.


def test_the_last_record_wins(tmp_path: Path) -> None:
    rounds = [
        all_records(DEFAULT_BLOCKS),
        [
            Record("pc.ram", 0),
            Record("pc.ram", 1, page(40)),
            Record("pc.ram", 2, page(41)),
            Record("pc.ram", 2, page(42)),
        ],
        [Record("pc.ram", 2, bytes(PAGE_SIZE)), Record("pc.bios", 1, page(43))],
    ]
    data = make_stream(rounds=rounds, last_round=[Record("pc.ram", 7, page(44))])
    expected = bytearray(DEFAULT_BLOCKS["pc.ram"])
    for place, content in enumerate([bytes(PAGE_SIZE), page(40), bytes(PAGE_SIZE)]):
        expected[place * PAGE_SIZE : (place + 1) * PAGE_SIZE] = content
    expected[7 * PAGE_SIZE :] = page(44)

    there, back = there_and_back(tmp_path, data)

    for held in (there, back):
        assert held.image.blocks["pc.ram"].content == expected
        assert held.image.blocks["pc.bios"].content == page(16) + page(43)
    # A page of explicit zeros is present, one of a zero record is not.
    assert there.image.blocks["pc.ram"].present == {1, 2, 3, 7}


def test_deltas_apply_to_what_came_before(tmp_path: Path) -> None:
    keep_1132 = b"\xec\x08"
    rounds = [
        all_records(DEFAULT_BLOCKS),
        [
            Record("pc.ram", 0, delta=keep_1132 + b"\x01\xcd"),
            Record("pc.ram", 1, delta=b"\x00\x03abc"),
            Record("pc.ram", 2, page(50)),
            Record("pc.ram", 2, delta=b"\x05\x01x"),
        ],
        [Record("pc.ram", 0, delta=b"\x00\x02ok"), Record("pc.ram", 3, delta=b"")],
    ]
    data = make_stream(rounds=rounds)
    (tmp_path / "original").write_bytes(data)
    before = hold(tmp_path / "original").image

    there, back = there_and_back(tmp_path, data)

    assert before.blocks["pc.ram"].content[:2] == b"ok"
    assert before.blocks["pc.ram"].content[1132] == 0xCD
    assert_same_guest(before, there.image)
    assert_same_guest(before, back.image)
    assert 1 in there.image.blocks["pc.ram"].present


@pytest.mark.parametrize("form", ["raw", "zstd"])
def test_deltas_survive_a_change_of_codec(form: str, tmp_path: Path) -> None:
    rounds = [all_records(DEFAULT_BLOCKS), [Record("pc.ram", 0, delta=b"\x00\x02ok")]]
    plain = make_stream(rounds=rounds)

    after = convert(tmp_path, compress("gzip", plain), form)

    assert after.stream == plain


def test_stale_pages_are_zero(tmp_path: Path) -> None:
    stale = {("pc.ram", 1): page(60), ("pc.ram", 6): page(61)}
    data = make_stream(layout="mapped-ram", stale=stale)

    there, back = there_and_back(tmp_path, data)
    copy = convert(tmp_path, data, "sparse", overwrite=True)

    for held in (there, back, copy):
        assert held.image.blocks["pc.ram"].content == DEFAULT_BLOCKS["pc.ram"]
        assert page(60) not in held.stream
        assert page(61) not in held.stream
    assert copy.stream == make_stream(layout="mapped-ram")


def test_explicit_zeros_stay_present(tmp_path: Path) -> None:
    zeros = frozenset({("pc.ram", 1), ("pc.bios", 1)})
    data = make_stream(layout="mapped-ram", explicit_zeros=zeros)

    there, back = there_and_back(tmp_path, data)

    assert there.image.blocks["pc.ram"].present == {0, 1, 2, 3}
    assert back.stream == data


# Streams of other shapes.

SHAPES: dict[str, dict[str, Any]] = {
    "many parts": {"parts": 7},
    "blocks named again": {"parts": 3, "names_survive": True},
    "early section": {"early": [VIRTIO_MEM_EARLY]},
    "early section of any device": {
        "early": [Device("slot/thing", Fields("thing", fields=[("f", "buffer", b"\x7e\0\0\0\n")]))]
    },
    "no description": {"description": False},
    "no description, early section": {"description": False, "early": [VIRTIO_MEM_EARLY]},
    "no END": {"ram_end": False},
    "no END, no description": {"ram_end": False, "description": False},
    "dirty bitmaps": {"dirty_bitmaps": True, "commands": [(3, b"")]},
    "before 10.0": {"switchover": False},
    "no footers": {"footers": False},
    "page bits": {"page_bits": 14, "blocks": {"mach-virt.ram": page(5, 1 << 14) + bytes(3 << 14)}},
    "uuid": {"uuid": b"\xee" * 16},
    "hot-plugged": {"blocks": {**DEFAULT_BLOCKS, "dimm0": page(70) + bytes(PAGE_SIZE)}},
    "virtio-mem": {
        "blocks": {**DEFAULT_BLOCKS, "0000:00:03.0/vmem0": page(71) + bytes(15 * PAGE_SIZE)},
        "early": [VIRTIO_MEM_EARLY],
    },
    "no devices": {"devices": []},
    "large device": {"devices": [*DEFAULT_DEVICES, simple_device("vga", page(8) * 1024)]},
    "same device twice": {
        "devices": [simple_device("cpu", b"0", 0), simple_device("cpu", b"12345", 1)]
    },
    "trailing data": {"trailing": b"\0more"},
    "no blocks": {"blocks": {}},
}


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_there_and_back(shape: str, layout: str, tmp_path: Path) -> None:
    # With the pages in END, as the way back from mapped-ram writes them.
    data = make_stream(layout=layout, **SHAPES[shape])
    (tmp_path / "original").write_bytes(data)
    before = hold(tmp_path / "original").image

    there, back = there_and_back(tmp_path, data)

    assert_same_guest(before, there.image)
    assert_same_guest(before, back.image)
    assert back.stream[back.image.end :] == b"", "what follows a stream is not carried along"
    if layout == "mapped-ram":
        assert back.stream == make_stream(layout=layout, **SHAPES[shape] | {"trailing": b""})


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_through_a_codec(shape: str, tmp_path: Path) -> None:
    plain = make_stream(**SHAPES[shape])

    packed = convert(tmp_path, plain, "zstd")
    assert packed.stream == make_stream(**SHAPES[shape] | {"trailing": b""})

    (tmp_path / "target").rename(tmp_path / "between")
    sparse = convert(tmp_path, (tmp_path / "between").read_bytes(), "sparse")
    assert_same_guest(packed.image, sparse.image)


def test_live_commands_stay_behind(tmp_path: Path) -> None:
    commands = [(1, b""), (2, b"\0\0\0\x07"), (3, bytes(16)), (8, b"")]
    data = make_stream(commands=commands)

    sparse = convert(tmp_path, data, "sparse")

    assert sparse.image.commands == [(8, b""), (11, b"")]


def test_the_description_tells_the_new_capability(tmp_path: Path) -> None:
    there, back = there_and_back(tmp_path, make_stream(uuid=bytes(16), page_bits=12))

    assert there.image.description is not None
    assert back.image.description is not None
    names = [
        [part["vmsd_name"] for part in held.image.description["configuration"]["subsections"]]
        for held in (there, back)
        if held.image.description is not None
    ]
    assert names == [
        ["configuration/target-page-bits", "configuration/capabilities", "configuration/uuid"],
        ["configuration/target-page-bits", "configuration/uuid"],
    ]


@pytest.mark.parametrize("prefix", [b"", make_envelope(format=6, order="big")])
def test_bitmaps_of_big_endian_hosts(prefix: bytes, tmp_path: Path) -> None:
    blocks = {"ram": b"".join(page(i) if i % 3 else bytes(PAGE_SIZE) for i in range(70))}
    data = make_stream(layout="mapped-ram", bitmap_order="big", blocks=blocks, prefix=prefix)
    source = tmp_path / "source"
    source.write_bytes(data)
    before = hold(source, bitmap_order="big")

    savefmt.convert(source, tmp_path / "raw", layout=Layout.SEQUENTIAL)
    savefmt.convert(source, tmp_path / "copy", verify=True)

    assert_same_guest(before.image, hold(tmp_path / "raw").image)
    assert (tmp_path / "copy").read_bytes() == data
    # The way back writes them in the order of the host that wrote the envelope.
    order = "big" if prefix else "little"
    savefmt.convert(tmp_path / "raw", tmp_path / "back", layout=Layout.MAPPED_RAM)
    assert_same_guest(before.image, hold(tmp_path / "back", bitmap_order=order).image)


def test_bitmap_order_is_told_without_holes_too(tmp_path: Path) -> None:
    """A copy without holes has data everywhere, and 64 pages leave no bits over."""
    blocks = {"ram": page(1) * 3 + bytes(61 * PAGE_SIZE)}
    data = make_stream(layout="mapped-ram", bitmap_order="big", blocks=blocks)
    (tmp_path / "source").write_bytes(data)

    with savefmt.open(tmp_path / "source") as image:
        assert image.memory.read("ram", 0, 64 * PAGE_SIZE) == blocks["ram"]


def stray_rom(name: str, content: bytes, **options: Any) -> bytes:
    """Return a mapped-ram image whose one-page ROM has a stray bit behind its page."""
    blocks = {"ram": content, name: bytes(PAGE_SIZE)}
    data = make_stream(layout="mapped-ram", blocks=blocks, **options)
    header = data.index(name.encode() + len(blocks[name]).to_bytes(8, "big")) + len(name) + 8
    bitmap = int.from_bytes(data[header + 12 : header + 20], "big")
    return data[:bitmap] + (1 << 56).to_bytes(8, "little") + data[bitmap + 8 :]


RAM_OF_WHOLE_WORDS = page(1) * 40 + bytes(88 * PAGE_SIZE)


def test_the_envelope_tells_the_byte_order(tmp_path: Path) -> None:
    """Eight bytes in a ROM do not turn the bitmaps round."""
    data = stray_rom("rom", RAM_OF_WHOLE_WORDS, prefix=make_envelope(format=6))
    (tmp_path / "source").write_bytes(data)

    report = savefmt.check(tmp_path / "source", level=savefmt.CheckLevel.FULL)
    savefmt.convert(tmp_path / "source", tmp_path / "raw", layout=Layout.SEQUENTIAL, verify=True)

    assert [f.code for f in report.findings if f.code.startswith("mapped")] == [
        "mappedram.stray-bits"
    ]
    with savefmt.open(tmp_path / "raw") as image:
        assert image.memory.read("ram", 0, len(RAM_OF_WHOLE_WORDS)) == RAM_OF_WHOLE_WORDS
        assert image.memory.read("rom", 0, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_bitmaps_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(stray_rom("rom", RAM_OF_WHOLE_WORDS))

    report = savefmt.check(tmp_path / "source")
    with pytest.raises(CorruptError, match="contradict"):
        savefmt.convert(tmp_path / "source", tmp_path / "raw", layout=Layout.SEQUENTIAL)

    assert any("byte order" in finding.message for finding in report.findings)
    assert not (tmp_path / "raw").exists()


def test_pages_at_no_mib_boundary(tmp_path: Path) -> None:
    data = make_stream(layout="mapped-ram", align=PAGE_SIZE)
    (tmp_path / "original").write_bytes(data)

    there, back = there_and_back(tmp_path, data)

    assert_same_guest(hold(tmp_path / "original").image, there.image)
    assert back.stream == make_stream(layout="mapped-ram")


def test_pages_that_never_came_are_zero(tmp_path: Path) -> None:
    data = make_stream(rounds=[[Record("pc.ram", 3, page(3))]])

    there, back = there_and_back(tmp_path, data)

    for held in (there, back):
        expected = bytes(3 * PAGE_SIZE) + page(3) + bytes(4 * PAGE_SIZE)
        assert held.image.blocks["pc.ram"].content == expected


# Memory left out.

SHARED = {"pc.ram": 0, "pc.bios": 0xFFFC0000, "/rom@etc/acpi/rsdp": 0}
IGNORING = [record for record in all_records(DEFAULT_BLOCKS) if record.block != "pc.ram"]


def test_ignored_memory_cannot_become_sparse(tmp_path: Path) -> None:
    data = make_stream(guest_addresses=SHARED, rounds=[IGNORING])

    with pytest.raises(ConversionError, match="x-ignore-shared"):
        convert(tmp_path, data, "sparse")
    assert not (tmp_path / "target").exists()


def test_ignored_memory_stays_ignored_in_a_sequential_result(tmp_path: Path) -> None:
    mapped = make_stream(layout="mapped-ram", guest_addresses=SHARED, ignored=frozenset({"pc.ram"}))

    after = convert(tmp_path, mapped, "raw")

    assert after.image.capabilities == ["x-ignore-shared"]
    assert after.image.blocks["pc.bios"].guest_address == 0xFFFC0000
    assert not after.image.blocks["pc.ram"].present | after.image.blocks["pc.ram"].zero
    assert after.image.blocks["pc.bios"].content == DEFAULT_BLOCKS["pc.bios"]
    assert savefmt.compare(tmp_path / "source", tmp_path / "target").same
    assert convert(tmp_path, mapped, "sparse", overwrite=True).stream == mapped


def test_without_configuration_it_stays_sequential(tmp_path: Path) -> None:
    data = make_stream(configuration=False)

    assert convert(tmp_path, data, "zstd").stream == data
    with pytest.raises(ConversionError, match=r"no configuration section .* stay sequential"):
        convert(tmp_path, data, "sparse", overwrite=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_stream().replace(b"QEVM\0\0\0\3", b"QEVM\0\0\0\2"), "obsolete"),
        (make_stream(commands=[(7, bytes(4))]), "holds another stream"),
    ],
)
def test_what_is_beyond_us(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        convert(tmp_path, data, "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_compressed_stream_under_an_uncompressed_label(tmp_path: Path) -> None:
    data = make_envelope(format=0) + compress("zstd", make_stream())

    with pytest.raises(CorruptError, match=r"the envelope says raw, but .* zstd"):
        convert(tmp_path, data, "raw")


def test_many_blocks_of_many_pages(tmp_path: Path) -> None:
    """Windows end inside of runs, and several threads write."""
    blocks = {
        f"block{number}": b"".join(
            page(number * 1000 + i) if (i * 7 + number) % 5 < 3 else bytes(PAGE_SIZE)
            for i in range(700)
        )
        for number in range(3)
    }
    data = make_stream(blocks=blocks)
    (tmp_path / "original").write_bytes(data)
    before = hold(tmp_path / "original").image

    for threads in (1, 3):
        io = IOOptions(threads=threads, window=MIB, direct=threads == 3)
        sparse = convert(tmp_path, data, "sparse", io=io, overwrite=True)
        assert_same_guest(before, sparse.image)
        between = (tmp_path / "target").read_bytes()
        back = convert(tmp_path, between, "raw", io=io, overwrite=True)
        assert_same_guest(before, back.image)
