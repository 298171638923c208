"""Damaged images on the command line: what is lost is told, and never passed off as zeros."""

from __future__ import annotations

import bz2
import gzip
import html
import json
import lzma
import random
import struct
from pathlib import Path

import pytest
from builder import EOS, MIB, PAGE_SIZE, make_envelope, make_stream, pack_records, page, word
from builder import Record as Sent
from cli.fakes import Run
from oracle import checked_zstd
from reference import read_image
from salvaging import recovered

import savefmt
from savefmt.codec.registry import find_codec

RAM = b"".join(map(page, range(8)))
BLOCKS = {"pc.ram": RAM, "pc.bios": page(50) + bytes(PAGE_SIZE)}


def cut_short(path: Path, layout: str = "sequential") -> str:
    """Write an image that ends in the middle of page 4 of pc.ram."""
    data = make_stream(layout=layout, blocks=BLOCKS, align=PAGE_SIZE, machine="pc-i440fx-10.0")
    path.write_bytes(data[: data.index(page(4)) + 100])
    return str(path)


@pytest.fixture(params=["sequential", "mapped-ram"])
def cut(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return cut_short(tmp_path / "cut", request.param)


def test_without_salvage_a_cut_image_is_refused(run: Run, cut: str) -> None:
    assert run("map", cut).code == 1
    assert run("map", cut, "--lost", "list").code == 64


def test_every_command_says_what_is_lost_and_ends_with_code_3(run: Run, cut: str) -> None:
    for words in (
        ("map", cut),
        ("stats", cut),
        ("search", cut, "\x02"),
        ("strings", cut),
        ("devices", cut),
    ):
        outcome = run(*words, "--salvage")
        assert outcome.code == 3 or (words[0], outcome.code) == ("search", 1), words
        assert f"{cut}: the file was cut short" in outcome.err or "cut short" in outcome.err
        assert "lost: 4 of 8 pages of 'pc.ram'" in outcome.err


def test_a_list_that_is_there_is_kept(run: Run, cut: str, tmp_path: Path) -> None:
    there = tmp_path / "list"
    there.write_text("mine")

    by_stats = run("stats", cut, "--salvage", "--lost", str(there))
    kept = there.read_text()
    by_salvage = run("salvage", cut, str(tmp_path / "new"), "--lost", str(there), "--force")

    assert (by_stats.code, kept, by_salvage.code) == (1, "mine", 3)
    assert "name another one for --lost" in by_stats.err  # stats has no --force
    assert "pc.ram" in there.read_text()


def test_lost_is_a_kind_of_its_own(run: Run, cut: str) -> None:
    extents = json.loads(run("map", "--salvage", "-j", cut).out)["extents"]
    stats = json.loads(run("stats", "--salvage", "-j", cut).out)["stats"]

    ram = [(e["kind"], e["start"], e["length"]) for e in extents if e["block"] == "pc.ram"]
    merged = {kind: sum(n for k, _, n in ram if k == kind) for kind, _, _ in ram}
    assert merged == {"data": 4 * PAGE_SIZE, "lost": 4 * PAGE_SIZE}
    block = stats["blocks"][0]
    assert (block["pages"], block["zero"], block["lost"], block["unique"]) == (8, 0, 4, 4)
    assert "lost:" in run("stats", "--salvage", cut).out


def test_the_file_offsets_are_those_of_the_real_file(run: Run, cut: str) -> None:
    data = Path(cut).read_bytes()
    for extent in json.loads(run("map", "--salvage", "-j", cut).out)["extents"]:
        if extent["kind"] == "data":
            for number in range(extent["length"] // PAGE_SIZE):
                at = extent["offset"] + number * extent["stride"]
                assert data[at : at + PAGE_SIZE] == page(extent["start"] // PAGE_SIZE + number)


def test_read_marks_lost_bytes(run: Run, cut: str) -> None:
    shown = run("read", "--salvage", "--block", "pc.ram", cut, hex(4 * PAGE_SIZE - 16), "48")

    assert shown.code == 3
    known, lost, *_ = shown.out.splitlines()
    assert (
        known
        == "00003ff0  "
        + " ".join(["00 00 00 04"] * 2)
        + "  "
        + " ".join(["00 00 00 04"] * 2)
        + "  |"
        + "." * 16
        + "|"
    )
    assert lost.split("|")[0].count("??") == 16
    assert "?" * 16 in lost


def test_hash_refuses_unless_told_otherwise(run: Run, cut: str) -> None:
    refused = run("hash", "--salvage", cut)
    taken = run("hash", "--salvage", "--lost-as-zero", cut)

    assert refused.code == 1
    assert "--lost-as-zero" in refused.err
    assert taken.code == 3
    assert "memory" in taken.out


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("change", [-512, 512, -3 * PAGE_SIZE])
def test_pages_that_moved_are_given_up(tmp_path: Path, block: str, change: int) -> None:
    """A copy that passed over a bad sector has put all that is behind it elsewhere."""
    blocks = {name: content + bytes(64 * PAGE_SIZE) + content for name, content in BLOCKS.items()}
    data = make_stream(layout="mapped-ram", blocks=blocks, align=PAGE_SIZE)
    at = data.index(blocks[block][:PAGE_SIZE]) + 100
    more = bytes(max(change, 0))

    pages, report = recovered(tmp_path / "image", data[:at] + more + data[at - min(change, 0) :])

    assert not [number for name, number in pages if name == block]
    assert any("too many" in damage.message for damage in report.damages)
    assert any("nothing between its pages" in note for note in report.notes)
    assert all(
        content == blocks[name][number * PAGE_SIZE :][:PAGE_SIZE]
        for (name, number), content in pages.items()
    )


def test_a_damaged_entry_costs_nothing_of_the_block_before_it(tmp_path: Path) -> None:
    data = make_stream(layout="mapped-ram", blocks=BLOCKS, align=PAGE_SIZE)
    at = data.index(b"\7pc.bios")

    pages, report = recovered(tmp_path / "image", data[:at] + b"?" * 20 + data[at + 20 :])

    assert len(pages) == 8
    assert report.unlisted


def test_a_command_that_fails_says_what_is_lost(run: Run, cut: str) -> None:
    for words in (("hash", cut), ("regs", cut), ("read", "--virtual", cut, "0", "1")):
        outcome = run(*words, "--salvage")

        assert outcome.code == 1
        assert outcome.err.count("lost: 4 of 8 pages of 'pc.ram'") == 1


def test_the_elf_core_has_no_segment_over_what_is_lost(run: Run, cut: str, tmp_path: Path) -> None:
    target, listed = tmp_path / "core", tmp_path / "lost"
    outcome = run(
        *("export", "--salvage", cut, str(target), "--lost", str(listed)),
        *("--place", "pc.ram=0"),
    )

    assert outcome.code == 3, outcome.err
    core = target.read_bytes()
    table, count = struct.unpack_from("<Q", core, 32)[0], struct.unpack_from("<H", core, 56)[0]
    loads = []
    for number in range(count):
        kind, _, _, _, address, length = struct.unpack_from("<IIQQQQ", core, table + 56 * number)
        if kind == 1:
            loads.append((address, length))
    assert (0, 4 * PAGE_SIZE) in loads
    assert not any(address < 8 * PAGE_SIZE <= address + length for address, length in loads)
    assert f"pc.ram {4 * PAGE_SIZE:#x} {4 * PAGE_SIZE:#x}\n" in listed.read_text()


@pytest.mark.parametrize("form", ["raw", "sparse"])
def test_salvage_writes_an_image_of_what_is_left(
    run: Run, cut: str, tmp_path: Path, form: str
) -> None:
    target = tmp_path / "rest"
    outcome = run("salvage", cut, str(target), "-O", form, "--lost", str(tmp_path / "lost"))

    assert outcome.code == 3, outcome.err
    assert "it cannot be loaded" in outcome.out
    image = read_image(target.read_bytes())
    assert bytes(image.blocks["pc.ram"].content) == RAM[: 4 * PAGE_SIZE] + bytes(4 * PAGE_SIZE)
    assert image.blocks["pc.ram"].present == {0, 1, 2, 3}
    assert run("salvage", cut, str(target)).code == 1  # nothing is replaced unasked
    document = json.loads(run("salvage", cut, str(target), "-F", "-j").out)
    assert document["loadable"] is False
    assert document["salvage"]["blocks"][0] == {"idstr": "pc.ram", "pages": 8, "lost": 4}


def test_what_is_sound_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(make_stream(blocks=BLOCKS, prefix=make_envelope()))

    outcome = run("salvage", str(image), str(tmp_path / "copy"))

    assert outcome.code == 0
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
    assert "it can be loaded" in outcome.out


def test_a_middle_that_was_overwritten(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    data = make_stream(blocks=BLOCKS)
    at = data.index(page(3)) + 4000  # in page 3, up to behind the head of page 4
    image.write_bytes(data[:at] + b"?" * 200 + data[at + 200 :])

    outcome = run("salvage", str(image), str(tmp_path / "rest"))

    assert outcome.code == 3
    assert "it can be loaded, but the guest finds zeros" in outcome.out
    found = read_image((tmp_path / "rest").read_bytes())
    assert found.blocks["pc.ram"].present == {0, 1, 2, 5, 6, 7}
    assert bytes(found.blocks["pc.bios"].content) == BLOCKS["pc.bios"]
    assert [device.idstr for device in found.devices] == [
        *("timer", "cpu_common", "0000:00:02.0/virtio-rng")
    ]


def test_pages_that_may_be_of_two_blocks_are_given_up(run: Run, tmp_path: Path) -> None:
    blocks = {"node0": RAM, "node1": b"".join(map(page, range(60, 68)))}
    data = make_stream(blocks=blocks)
    at = data.index(page(2)) - 4
    image = tmp_path / "image"
    image.write_bytes(data[:at] + b"?" * 8 + data[at + 8 :])

    run("salvage", str(image), str(tmp_path / "rest"))

    found = read_image((tmp_path / "rest").read_bytes())
    assert found.blocks["node0"].present == {0}
    assert bytes(found.blocks["node1"].content) == blocks["node1"]


def test_deltas_behind_damage_are_given_up(run: Run, tmp_path: Path) -> None:
    delta = b"\x00\x04abcd"
    rounds = [[Sent("pc.ram", i, page(i)) for i in range(8)]]
    last = [Sent("pc.ram", 7, delta=delta), Sent("pc.ram", 6, page(70))]
    data = make_stream(blocks={"pc.ram": RAM}, rounds=rounds, last_round=last)
    at = data.index(page(3)) - 6
    image = tmp_path / "image"
    image.write_bytes(data[:at] + b"?" * 3 + data[at + 3 :])

    run("salvage", str(image), str(tmp_path / "rest"), "--lost", str(tmp_path / "lost"))

    found = read_image((tmp_path / "rest").read_bytes())
    content = bytes(found.blocks["pc.ram"].content)
    assert content[6 * PAGE_SIZE : 7 * PAGE_SIZE] == page(70)
    assert content[7 * PAGE_SIZE :] == bytes(PAGE_SIZE)
    assert f"pc.ram {7 * PAGE_SIZE:#x} {PAGE_SIZE:#x}" in (tmp_path / "lost").read_text()


def test_an_unfinished_save_and_a_lost_envelope(run: Run, tmp_path: Path) -> None:
    part, lost = tmp_path / "part", tmp_path / "lost"
    stream = make_stream(blocks=BLOCKS, prefix=make_envelope(magic=b"LibvirtQemudPart"))
    part.write_bytes(stream[: stream.index(page(5))])
    lost.write_bytes(b"?" * 500 + stream[500:])

    for image, pages in ((part, 5), (lost, 8)):
        outcome = run("salvage", str(image), str(tmp_path / f"{image.name}-rest"))
        assert outcome.code == 3, outcome.err
        found = read_image((tmp_path / f"{image.name}-rest").read_bytes())
        assert found.blocks["pc.ram"].present == {*range(pages)}
    assert "Part magic" in run("info", "--salvage", str(part)).out


def test_without_valid_bitmaps_pages_that_are_not_zero_are_taken(run: Run, tmp_path: Path) -> None:
    blocks = {"pc.ram": page(0) + bytes(PAGE_SIZE) + page(2)}
    data = bytearray(make_stream(layout="mapped-ram", blocks=blocks, align=PAGE_SIZE))
    image = tmp_path / "image"
    at = data.index(b"pc.ram") + 6 + 8 + 28
    data[at : at + 8] = bytes(8)
    end = data.index(EOS + b"\x7e\0\0\0\x02" + b"\x08")  # what follows RAM was not written
    image.write_bytes(data[:end])

    outcome = run("map", "--salvage", str(image))

    kinds = [line.split()[2] for line in outcome.out.splitlines()[1:]]
    assert kinds == ["data", "lost", "data"]
    assert "no bitmap tells which pages of 'pc.ram' are valid" in outcome.err


def test_a_map_that_is_none_is_refused(run: Run, cut: str, tmp_path: Path) -> None:
    listed = tmp_path / "map"
    for text in ("", "hello\n", "0 ?\n0 12\n", "0 ?\n0x0 0x10 !\n"):
        listed.write_text(text)
        outcome = run("info", "--salvage", "--map", str(listed), cut)
        assert outcome.code == 1
        assert "GNU ddrescue map file" in outcome.err


def test_a_guest_that_ran_is_told(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    rounds = [[Sent("pc.ram", i, page(i)) for i in range(8)]]
    last = [Sent("pc.ram", i, page(100 + i)) for i in range(8)]
    data = make_stream(blocks={"pc.ram": RAM}, rounds=rounds, last_round=last)
    image.write_bytes(data[: data.index(page(104))])

    outcome = run("info", "--salvage", "-j", str(image))

    salvage = json.loads(outcome.out)["images"][0]["salvage"]
    assert salvage["repeated"] == 4
    assert "the guest ran while it was saved" in salvage["notes"][0]


def test_nothing_to_recover(run: Run, tmp_path: Path) -> None:
    for content in (b"", b"\0" * MIB, b"QEVM\0\0\0\3", make_envelope()):
        image = tmp_path / "image"
        image.write_bytes(content)
        outcome = run("info", "--salvage", str(image))
        assert outcome.code == 1
        assert len(outcome.err.splitlines()) == 1


def test_a_stream_that_the_guest_holds_is_no_place_to_go_on(run: Run, tmp_path: Path) -> None:
    """A page full of records, as of an image in the guest's page cache, is content."""
    inner = b"".join(word(i * PAGE_SIZE, 0x22) + b"\0" for i in range(4)) * 200
    trap = (b"?" * 10 + inner)[:PAGE_SIZE]
    records = [Sent("pc.ram", i, page(i)) for i in range(3)]
    records += [Sent("pc.ram", 3, trap), *(Sent("pc.ram", i, page(i)) for i in range(4, 8))]
    assert pack_records(records)
    data = make_stream(blocks={"pc.ram": RAM}, rounds=[records])
    at = data.index(trap) - 6
    image = tmp_path / "image"
    image.write_bytes(data[:at] + b"?" * 8 + data[at + 8 :])

    run("salvage", str(image), str(tmp_path / "rest"), "--lost", str(tmp_path / "lost"))

    found = read_image((tmp_path / "rest").read_bytes())
    assert found.blocks["pc.ram"].present == {0, 1, 4, 5, 6, 7}
    assert (tmp_path / "lost").read_text() == "pc.ram 0x2000 0x2000\n"


def packed(codec: str, data: bytes) -> bytes:
    """Compress data into parts of about 100 kB that can be unpacked alone."""
    if codec == "bzip2":
        return bz2.compress(data, 1)
    parts = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    if codec == "lzop":
        parts = [data]  # which has blocks of its own
    if codec == "xz":
        return b"".join(map(lzma.compress, parts))
    frames = []
    for part in parts:
        frames.append(b"")
        writer = find_codec(codec).open_writer(
            lambda piece: frames.append(frames.pop() + piece), threads=1
        )
        writer.write(part)
        writer.close()
    return b"".join(frames)


@pytest.mark.parametrize(
    ("codec", "enveloped"),
    [("bzip2", True), ("xz", False), ("zstd", True), ("lzop", False), ("gzip", True)],
)
def test_compressed_parts_before_and_behind_damage(
    tmp_path: Path, codec: str, enveloped: bool
) -> None:
    dice = random.Random(codec)
    ram = b"".join(dice.randbytes(2048) + bytes(2048) for _ in range(700))
    whole = packed(codec, make_stream(blocks={"pc.ram": ram, "pc.bios": page(1)}))
    number = ["gzip", "bzip2", "xz", "lzop", "zstd"].index(codec) + 1
    envelope = make_envelope(format=number) if enveloped else b""
    middle = len(whole) // 2
    cut = whole[:middle]
    damaged = cut + bytes(byte ^ 0x5A for byte in whole[middle : middle + 9]) + whole[middle + 9 :]

    for data in (whole, cut, damaged):
        found, report = recovered(tmp_path / "image", envelope + data)
        numbers = sorted(number for name, number in found if name == "pc.ram")
        for one in numbers:
            assert found["pc.ram", one] == ram[one * PAGE_SIZE : (one + 1) * PAGE_SIZE]
        if data is whole:
            assert report.sound
            assert len(numbers) == 700
        else:
            assert not report.sound
            assert numbers[:40] == [*range(40)]
            assert len(numbers) < 700
        assert (699 in numbers) == (data is not cut)


def test_one_checksum_that_is_wrong_proves_nothing(run: Run, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(make_stream(blocks=BLOCKS)))
    data[len(data) // 2] ^= 1
    image = tmp_path / "image"
    image.write_bytes(data)

    outcome = run("info", "--salvage", str(image))

    assert outcome.code == 1
    assert "nothing of it is proven" in outcome.err


def test_what_came_of_a_cut_gzip_member_is_not_proven(tmp_path: Path, run: Run) -> None:
    data = gzip.compress(make_stream(blocks={"pc.ram": random.Random(1).randbytes(MIB)}))
    image = tmp_path / "image"
    image.write_bytes(data[: len(data) // 2])

    outcome = run("info", "--salvage", str(image))

    assert outcome.code == 3
    assert "the checksum of the last compressed part is lost with its end" in outcome.out


def test_what_is_lost_is_not_compared(run: Run, cut: str, tmp_path: Path) -> None:
    for name, other in (("same", RAM), ("other", page(90) + RAM[PAGE_SIZE:])):
        blocks = {**BLOCKS, "pc.ram": other}
        (tmp_path / name).write_bytes(make_stream(blocks=blocks, machine="pc-i440fx-10.0"))

    for order in ((cut, str(tmp_path / "same")), (str(tmp_path / "same"), cut)):
        assert run("compare", *order).code == 2
        outcome = run("compare", "--salvage", *order)
        assert outcome.code == 3
        assert "note: 4 pages of 'pc.ram' are lost and were not compared" in outcome.out
        assert "note: device sections are lost and were not compared" in outcome.out
        assert "no difference in what could be read" in outcome.out
        assert "same guest" not in outcome.out
    outcome = run("compare", "--salvage", "-j", cut, str(tmp_path / "other"))
    found = json.loads(outcome.out)["comparison"]
    assert outcome.code == 1
    assert [block["runs"] for block in found["blocks"]] == [[{"first": 0, "count": 1}]]
    assert not found["sections"]
    assert found["lost"] >= 4
    assert run("compare", "--salvage", "--map", cut, cut, cut).code == 64


def test_a_report_of_what_is_left(
    run: Run, cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    outcome = run("report", "--salvage", cut, "-o", "page.html", "--lost", "list")

    text = Path("page.html").read_text()
    assert outcome.code == 3
    assert "lost: 4 of 8 pages of 'pc.ram'" in outcome.err
    assert "4 of 8 pages of 'pc.ram' are lost" in html.unescape(text)
    assert "--lost=list --salvage" in text
    assert Path("list").read_text().startswith(f"pc.ram {4 * PAGE_SIZE:#x} {4 * PAGE_SIZE:#x}\n")


@pytest.mark.parametrize(
    "words",
    [("restore", "{}"), ("prepare", "{}", "d"), ("detach", "{}", "d"), ("fleet", "check", "{}")],
)
def test_what_takes_no_damaged_image_says_what_to_do(
    words: tuple[str, ...], run: Run, cut: str
) -> None:
    outcome = run(*(word.format(cut) for word in words), "--salvage")
    assert outcome.code == 64
    assert "write what can be read of it with `savefmt salvage` first" in outcome.err
    assert "`savefmt salvage` writes what can be read of it" in run("check", cut).out


def test_no_match_reaches_into_what_is_lost(run: Run, cut: str) -> None:
    """Page 4 is lost, and page 3 ends in the bytes 00 00 00 04."""
    for pattern, found in (("\\x04\\0", 1), ("\\x04\\0\\0\\0\\x04", 1), ("\\x04\\0\\0\\0\\0", 0)):
        words = ("search", "--salvage", cut, "--bytes", pattern, "-j")
        hits = json.loads(run(*words, "--block", "pc.ram").out)["hits"]
        assert bool([hit for hit in hits if hit["offset"] < 4 * PAGE_SIZE]) == found
        ends = [hit["offset"] + hit["length"] for hit in hits]
        assert not any(end > 4 * PAGE_SIZE for end in ends)
    last = json.loads(run("search", "--salvage", cut, "--hex", "00 00 00 04", "-j").out)["hits"][-1]
    assert (last["offset"] + 4, last["after"]) == (4 * PAGE_SIZE, "")


@pytest.mark.parametrize("format", ["raw", "sparse", "zstd"])
def test_what_was_salvaged_says_so(format: str, run: Run, cut: str, tmp_path: Path) -> None:
    rest, again = str(tmp_path / "rest"), str(tmp_path / "again")
    if format == "zstd":
        assert run("convert", "--salvage", cut, rest, "-O", format).code == 3
    else:
        assert run("salvage", cut, rest, "-O", format).code == 3
        assert "SALVAGED:      from a damaged image" in run("info", rest).out
        assert "lost (savefmt check" in run("info", rest).out
        assert run("convert", rest, again, "-O", "zstd").code == 0
        assert run("convert", again, rest, "-F", "-O", "sparse").code == 0
        assert (
            json.loads(run("info", "-j", rest).out)["images"][0]["salvaged"]["lost"]["pc.ram"] == 4
        )
    outcome = run("check", "--full", "-j", rest)
    [report] = json.loads(outcome.out)["reports"]
    [found] = [one for one in report["findings"] if one["code"] == "image.salvaged"]
    assert found["message"].startswith("salvaged from a damaged image; lost: 4 pages of 'pc.ram'")
    assert "device sections" in found["message"]
    errors = {one["code"] for one in report["findings"] if one["severity"] == "error"}
    assert not errors


def test_an_image_with_devices_keeps_its_description(run: Run, tmp_path: Path) -> None:
    sound, rest = tmp_path / "sound", tmp_path / "rest"
    data = make_stream(blocks=BLOCKS)
    at = data.index(page(4))
    sound.write_bytes(data[:at] + data[at + 100 :])

    assert run("salvage", str(sound), str(rest)).code == 3
    report = savefmt.check(rest, level=savefmt.CheckLevel.FULL)
    assert {one.code for one in report.findings} >= {"image.salvaged"}
    with savefmt.open(rest) as image, savefmt.open(sound, salvage=True) as damaged:
        assert image.sections is not None
        assert [one.idstr for one in image.sections] == [
            one.idstr for one in damaged.devices.sections
        ]
        assert image.devices.described(image.sections[0])


def test_a_mark_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    text = make_stream(blocks=BLOCKS)
    for value in ("1", '{"lost": {"a": -1}, "unlisted": 0, "devices_whole": true}', '{"lost": []}'):
        mark = f'"savefmt-salvaged": {value}, "page_size"'.encode()
        data = text.replace(b'"page_size"', mark)
        at = data.rindex(b"\x06", 0, data.index(b'{"configuration"'))
        length = len(data) - at - 5
        path = tmp_path / "image"
        path.write_bytes(data[: at + 1] + struct.pack(">I", length) + data[at + 5 :])
        assert savefmt.probe(path).salvaged is None
        assert savefmt.check(path, level=savefmt.CheckLevel.FULL).ok


def one_part(codec: str, data: bytes) -> bytes:
    """Compress as the programs that libvirt runs do: one part, with a checksum at its end."""
    if codec == "gzip":
        return gzip.compress(data)
    return checked_zstd(data)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_what_nothing_proves_is_taken_on_request_alone(
    codec: str, run: Run, tmp_path: Path
) -> None:
    dice = random.Random(codec)
    ram = b"".join(dice.randbytes(2048) + bytes(2048) for _ in range(300))
    data = bytearray(one_part(codec, make_stream(blocks={"pc.ram": ram, "pc.bios": page(1)})))
    image, rest = tmp_path / "image", str(tmp_path / "rest")
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xA5 for byte in data[middle : middle + 64])

    found, report = recovered(image, bytes(data), unproven=True)
    # All that came before is what the guest had; behind it anything may be.
    for number in range(100):
        assert found["pc.ram", number] == ram[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
    assert not report.sound
    assert any("any page of it may differ" in note for note in report.notes)
    assert any(damage.kind == "damaged" for damage in report.damages)
    outcome = run("info", "--salvage", str(image))
    assert (outcome.code, "--unproven takes what was unpacked" in outcome.err) == (1, True)
    outcome = run("salvage", "--unproven", str(image), rest)
    assert outcome.code == 3
    assert "any page of it may differ" in outcome.err
    assert "SALVAGED" in run("info", rest).out
    assert run("info", "--unproven", rest).code == 64


def test_a_checksum_alone_that_is_wrong_loses_nothing_for_sure(run: Run, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(make_stream(blocks=BLOCKS)))
    data[-6] ^= 1
    image, rest = tmp_path / "image", tmp_path / "rest"
    image.write_bytes(data)

    assert run("salvage", "--unproven", str(image), str(rest)).code == 3
    assert "which nothing proves" in run("info", str(rest)).out
    report = savefmt.check(rest, level=savefmt.CheckLevel.FULL)
    [finding] = [one for one in report.findings if one.code == "image.salvaged"]
    assert finding.message == "salvaged from a damaged image; nothing tells how much of it is lost"
    assert savefmt.Severity.ERROR not in {one.severity for one in report.findings}
