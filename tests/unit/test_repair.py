"""What `repair` puts right, byte for byte, and what it leaves alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from builder import DOMAIN_XML, MIB, make_envelope, make_stream, page
from loopdevices import loop_device
from oracle import CODECS, compress

import savefmt
from savefmt import CheckLevel, ConversionError, CorruptError, Repair, SavefmtError
from savefmt.writing.inuse import note_thin

COOKIE = b"<cookie>\n  <cpu/>\n</cookie>\n"
FORMS = [*CODECS, "sparse"]


def build(form: str, **envelope: Any) -> bytes:
    """Return a sound image."""
    prefix = make_envelope(format=FORMS.index(form), **envelope)
    if form == "sparse":
        order = envelope.get("order", "little")
        return make_stream(layout="mapped-ram", prefix=prefix, bitmap_order=order)
    return prefix + (make_stream() if form == "raw" else compress(form, make_stream()))


SOUND = {form: build(form, cookie=COOKIE) for form in FORMS}
PART = b"LibvirtQemudPart"


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def put(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def stray(sound: bytes, idstr: bytes = b"pc.ram") -> bytes:
    """Set a bit behind the last page; the bitmap follows 28 bytes behind the length."""
    at = sound.index(bytes([len(idstr)]) + idstr) + 1 + len(idstr) + 8 + 28
    return patched(sound, at + 7, b"\x80")


def offered(path: Path) -> list[Repair]:
    """Return what is listed, which must be what check names."""
    report = savefmt.repair(path)
    named = {f.repair for f in savefmt.check(path, level=CheckLevel.FULL).findings} - {None}
    assert [offer.repair for offer in report.offers] == [one for one in Repair if one in named]
    assert all(offer.change and offer.length and offer.codes for offer in report.offers)
    assert report.made == ()
    return [offer.repair for offer in report.offers]


DAMAGES: dict[str, tuple[Repair, bytes, bytes]] = {
    f"{kind} of {form}": (repair, change(sound), sound)
    for form, sound in SOUND.items()
    if form in ("raw", "zstd", "sparse")
    for kind, repair, change in (
        ("magic", Repair.MAGIC, lambda data: patched(data, 0, PART)),
        ("length 0", Repair.LENGTH, lambda data: patched(data, 20, number(0))),
        ("short length", Repair.LENGTH, lambda data: patched(data, 20, number(33))),
        ("length into RAM", Repair.LENGTH, lambda data: patched(data, 20, number(2000))),
        ("length behind the end", Repair.LENGTH, lambda data: patched(data, 20, number(1 << 26))),
        ("endless length", Repair.LENGTH, lambda data: patched(data, 20, b"\xff" * 4)),
        ("unknown format", Repair.FORMAT, lambda data: patched(data, 28, number(77))),
        ("cookie in the XML", Repair.COOKIE, lambda data: patched(data, 32, number(30))),
        ("cookie in the padding", Repair.COOKIE, lambda data: patched(data, 32, number(900))),
        ("cookie behind all", Repair.COOKIE, lambda data: patched(data, 32, number(1 << 30))),
        ("no cookie", Repair.COOKIE, lambda data: patched(data, 32, number(0))),
        ("trailing", Repair.TRAILING, lambda data: data + b"older bytes" * 99),
    )
}
DAMAGES |= {
    f"{form} labelled {other}": (Repair.FORMAT, patched(sound, 28, number(wrong)), sound)
    for right, (form, sound) in enumerate(SOUND.items())
    for wrong, other in enumerate(FORMS)
    if wrong == (right + 1) % len(FORMS) or (form, other) == ("raw", "sparse")
}
_PLAIN = build("sparse")
_ONE = make_envelope(version=1) + make_stream()
_BIG = build("sparse", order="big")
_FEATURE = make_envelope(version=3, unused=b"\1" + bytes(55))
_THREE = make_stream(layout="mapped-ram", prefix=_FEATURE)
DAMAGES |= {
    "stray bits": (Repair.STRAY_BITS, stray(_PLAIN), _PLAIN),
    "stray bits of two": (Repair.STRAY_BITS, stray(stray(_PLAIN), b"pc.bios"), _PLAIN),
    "a cookie that is none": (Repair.COOKIE, patched(_PLAIN, 32, number(1000)), _PLAIN),
    "version 1": (Repair.LENGTH, patched(_ONE, 20, number(5)), _ONE),
    "big endian": (Repair.LENGTH, patched(_BIG, 20, number(5)), _BIG),
    "big endian format": (Repair.FORMAT, patched(_BIG, 28, bytes(4)), _BIG),
    "a feature": (Repair.FORMAT, patched(_THREE, 36, bytes(4)), _THREE),
    "a bare stream": (Repair.TRAILING, make_stream() + b"x", make_stream()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_very_bytes_come_back(name: str, tmp_path: Path) -> None:
    repair, damaged, sound = DAMAGES[name]
    path = put(tmp_path, damaged)
    path.chmod(0o640)

    assert offered(path) == [repair]
    dry = savefmt.repair(path, fixes=[repair], dry_run=True)
    assert path.read_bytes() == damaged
    report = savefmt.repair(path, fixes=[repair])

    assert path.read_bytes() == sound
    assert dry.dry_run
    assert (report.made, report.ok, dry.made, dry.replaced) == (
        (repair,),
        True,
        (repair,),
        report.replaced,
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["image"]
    assert offered(path) == []


@pytest.mark.parametrize("form", ["raw", "xz", "sparse"])
def test_a_copy_leaves_the_image_alone(form: str, tmp_path: Path) -> None:
    damaged = patched(SOUND[form], 0, PART) + b"more"
    path = put(tmp_path, damaged)

    report = savefmt.repair(path, tmp_path / "copy", fixes=["all", "magic"])

    assert path.read_bytes() == damaged
    assert (tmp_path / "copy").read_bytes() == SOUND[form]
    assert report.made == (Repair.MAGIC, Repair.TRAILING)
    assert report.target == str(tmp_path / "copy")
    with pytest.raises(ConversionError, match="--force"):
        savefmt.repair(path, tmp_path / "copy", fixes=["all"])
    savefmt.repair(path, tmp_path / "copy", fixes=["all"], overwrite=True)
    with pytest.raises(ConversionError, match="leave DST out"):
        savefmt.repair(path, path, fixes=["all"], overwrite=True)


@pytest.mark.parametrize("form", ["raw", "lzop", "sparse"])
def test_all_that_a_header_says_wrong(form: str, tmp_path: Path) -> None:
    damaged = patched(SOUND[form], 0, PART + number(2) + number(7) + number(1) + number(99))
    path = put(tmp_path, patched(damaged, 32, number(1 << 20)))
    header = [Repair.MAGIC, Repair.LENGTH, Repair.FORMAT, Repair.COOKIE]
    assert offered(path) == header
    node = path.stat().st_ino

    for one in reversed(header):  # whatever the order, one at a time
        savefmt.repair(path, fixes=[one])

    assert path.read_bytes() == SOUND[form]
    assert path.stat().st_ino == node


def test_a_header_is_one_write_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, patched(patched(SOUND["raw"], 0, PART), 20, number(1)))
    written: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def note(fd: int, data: bytes, offset: int) -> int:
        written.append((offset, len(data)))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    savefmt.repair(path, fixes=["magic", "all"])

    assert [(at >= 0, at + length <= 92) for at, length in written] == [(True, True)]


def test_what_wants_thought_has_to_be_named(tmp_path: Path) -> None:
    path = put(tmp_path, patched(SOUND["raw"], 0, PART))

    report = savefmt.repair(path, fixes=["all"])

    assert ([offer.repair for offer in report.offers], report.made) == ([Repair.MAGIC], ())
    assert path.read_bytes()[:16] == PART


# Refused.


def refused(path: Path, *fixes: str, match: str) -> None:
    before = path.read_bytes()
    with pytest.raises(SavefmtError, match=match):
        savefmt.repair(path, fixes=fixes)
    assert path.read_bytes() == before
    assert "image" in os.listdir(path.parent)


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_stream_is_never_finished(form: str, tmp_path: Path) -> None:
    whole = patched(SOUND[form], 0, PART)
    start = len(make_envelope(cookie=COOKIE))
    room = len(whole) - start
    for length in {0, 3, room // 3, room - 250, room - 1}:
        path = put(tmp_path, whole[: start + length])
        assert Repair.MAGIC not in offered(path)
        refused(path, "magic", match="magic is not repaired: save the guest again")


MAPPED: dict[str, Any] = {
    "layout": "mapped-ram",
    "prefix": make_envelope(magic=PART, format=6),
}
NO_RAM = {"pc.ram": bytes(MIB)}
UNFINISHED = {
    "an END": (make_stream(ram_end=False, **MAPPED), "no END"),
    "bitmaps": (make_stream(blocks=NO_RAM, ram_end=False, **MAPPED), "not in this image"),
    "memory": (make_stream(blocks=NO_RAM, **MAPPED), "is zero"),
    "its own guest": (
        make_envelope(magic=PART) + make_stream(machine="pc-q35-9.2"),
        "the XML names machine",
    ),
    "a sound description": (
        make_envelope(magic=PART) + make_stream()[:-1] + b"]",
        "description",
    ),
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_nor_is_one_without(what: str, tmp_path: Path) -> None:
    data, reason = UNFINISHED[what]
    path = put(tmp_path, data)

    assert Repair.MAGIC not in offered(path)
    refused(path, "magic", match=reason)


def test_a_quick_check_of_a_packed_one_names_the_full_one(tmp_path: Path) -> None:
    path = put(tmp_path, patched(SOUND["zstd"], 0, PART))

    (first, *_) = savefmt.check(path).findings

    assert (first.code, first.repair) == ("envelope.incomplete", None)
    assert "--full" in first.advice


def test_what_is_right_is_not_repaired(tmp_path: Path) -> None:
    path = put(tmp_path, SOUND["raw"])

    report = savefmt.repair(path, fixes=["all"])

    assert (report.offers, report.made, report.ok) == ((), (), True)
    for one in Repair:
        refused(path, one, match=f"{one} is not repaired")
    with pytest.raises(ConversionError, match="no copy was written"):
        savefmt.repair(path, tmp_path / "copy", fixes=["all"])
    with pytest.raises(ValueError, match="nonsense"):
        savefmt.repair(path, fixes=["nonsense"])


def test_a_missing_description_is_not_made_up(tmp_path: Path) -> None:
    path = put(tmp_path, make_envelope() + make_stream(description=False))

    report = savefmt.repair(path)

    assert report.offers == ()
    assert "vmdescription.missing" in {finding.code for finding in report.findings}


def test_a_fault_behind_the_header_stays_one(tmp_path: Path) -> None:
    """The length is put right, and what is damaged behind it is told and left."""
    data = bytearray(patched(SOUND["raw"], 20, number(1)))
    data[data.rindex(b"\x7e\0\0\0\x02") + 4] = 9
    path = put(tmp_path, bytes(data))

    report = savefmt.repair(path, fixes=["all"])

    assert report.made == (Repair.LENGTH,)
    assert not report.ok
    assert path.read_bytes() == patched(bytes(data), 20, SOUND["raw"][20:24])


def test_where_nothing_shows_what_is_right(tmp_path: Path) -> None:
    nothing = {
        "no end of the XML": make_envelope(xml=b"<domain") + make_stream(),
        "no stream": make_envelope() + b"no stream at all" * 99,
        "no file": make_envelope(),
    }
    for what, data in nothing.items():
        path = put(tmp_path, patched(data, 20, number(1)))
        assert offered(path) == [], what
        assert not savefmt.repair(path).ok
        refused(path, "length", match="nothing shows what is right")


def test_padding_that_is_not_zero(tmp_path: Path) -> None:
    """What is left of a longer XML is no reason to miss an uncompressed stream."""
    prefix = make_envelope(padding=3000)
    sound = patched(prefix, len(prefix) - 2500, b"leftovers</domain>") + make_stream()
    path = put(tmp_path, patched(sound, 20, number(4)))

    savefmt.repair(path, fixes=["length"])

    assert path.read_bytes() == sound


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    path = put(tmp_path, patched(SOUND["raw"], 20, number(12)))

    with pytest.raises(
        CorruptError, match=r"12 bytes of XML .*`savefmt repair --fix length`"
    ) as it:
        savefmt.open(path)

    assert it.value.offset == 20


def test_part_of_a_file_is_left_alone(tmp_path: Path) -> None:
    damaged = patched(SOUND["raw"], 20, number(12))
    path = put(tmp_path, bytes(4096) + damaged)
    source = savefmt.Source(path, offset=4096)

    with pytest.raises(ConversionError, match="file of its own"):
        savefmt.repair(source, fixes=["length"])
    report = savefmt.check(source)
    assert [(one.code, one.repair) for one in report.findings] == [("envelope.length", None)]


def test_an_image_compressed_as_a_whole_is_left_alone(tmp_path: Path) -> None:
    path = put(tmp_path, compress("gzip", patched(SOUND["raw"], 28, number(6))))

    assert offered(path) == []
    refused(path, "format", match="not repaired")


def test_an_image_that_others_need_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, patched(SOUND["sparse"], 28, number(0)))
    (tmp_path / "thin").write_bytes(b"thin")
    if not note_thin(path, tmp_path / "thin"):
        pytest.skip("no extended attributes here")

    refused(path, "format", match="thin image")


def test_a_file_that_changes_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, patched(SOUND["raw"], 28, number(6)))
    whole = savefmt.repair.__globals__["_require_better"]

    def change(*words: object) -> None:
        whole(*words)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))

    monkeypatch.setitem(savefmt.repair.__globals__, "_require_better", change)

    with pytest.raises(savefmt.ImageChangedError):
        savefmt.repair(path, fixes=["format"])
    with pytest.raises(savefmt.ImageChangedError):
        savefmt.repair(path, tmp_path / "copy", fixes=["format"])
    assert os.listdir(tmp_path) == ["image"]


def test_what_would_be_no_better_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, patched(SOUND["raw"], 28, number(6)))
    rooms = savefmt.repair.__globals__
    monkeypatch.setitem(
        rooms, "put_numbers", lambda head, numbers: head[:28] + number(5) + head[32:]
    )

    refused(path, "format", match="not make the image better")


def test_words_from_a_file_are_plain(tmp_path: Path) -> None:
    xml = DOMAIN_XML.replace(b"tiny", b"\x1b[2J")
    path = put(tmp_path, patched(make_envelope(xml=xml) + make_stream(), 20, number(3)))

    report = savefmt.repair(path)

    assert all("\x1b" not in offer.change for offer in report.offers)


# On a device.


def test_on_a_device(tmp_path: Path) -> None:
    with loop_device(tmp_path / "backing", 4 << 20) as volume:
        damaged = patched(SOUND["raw"], 28, number(6))
        with volume.open("r+b") as device:
            device.write(damaged)
        assert [one.repair for one in savefmt.repair(volume).offers] == [Repair.FORMAT]
        with pytest.raises(ConversionError, match="cannot be made shorter"):
            savefmt.repair(volume, fixes=["trailing"])

        savefmt.repair(volume, tmp_path / "copy", fixes=["format"])
        savefmt.repair(volume, fixes=["format"])

        with volume.open("rb") as device:
            assert device.read(len(damaged)) == SOUND["raw"]
        with (tmp_path / "copy").open("rb") as copy:
            assert copy.read(len(damaged)) == SOUND["raw"]
        with volume.open("r+b") as device:
            device.write(PART)
        with pytest.raises(ConversionError, match="an older save"):
            savefmt.repair(volume, fixes=["magic"])


def test_pages_are_shared_or_copied_alike(tmp_path: Path) -> None:
    """A copy keeps the holes."""
    blocks = {"pc.ram": page(1) + bytes(8 * MIB - 4096)}
    prefix = make_envelope(format=6)
    sound = make_stream(layout="mapped-ram", blocks=blocks, prefix=prefix)
    path = tmp_path / "image"
    with path.open("wb") as file:
        for at in range(0, len(sound), 4096):
            if any(sound[at : at + 4096]):
                file.seek(at)
                file.write(sound[at : at + 4096])
        file.truncate(len(sound))
        file.seek(28)
        file.write(number(0))

    savefmt.repair(path, tmp_path / "copy", fixes=["all"])

    copy = tmp_path / "copy"
    assert copy.read_bytes() == sound
    assert copy.stat().st_blocks <= path.stat().st_blocks + 64


def test_salvage_names_the_repair_of_the_length_too(tmp_path: Path) -> None:
    """What it keeps begins with the file's own header; then both help one after the other."""
    cut = patched(SOUND["raw"], 20, number(33))[:-4096]
    path = put(tmp_path, cut)

    with pytest.raises(CorruptError, match="`savefmt repair --fix length` puts it right"):
        savefmt.open(path, salvage=True)
    assert savefmt.repair(path, fixes=[Repair.LENGTH]).made
    with savefmt.open(path, salvage=True) as image:
        assert image.head.blocks
