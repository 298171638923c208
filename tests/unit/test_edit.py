"""Changing XML, cookie and run state in place, and moving the stream where they do not fit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from builder import DOMAIN_XML, make_envelope, make_stream, page
from oracle import CODECS, Held, assert_same_guest, compress, hold

import savefmt
from savefmt import (
    CheckLevel,
    ConversionError,
    CorruptError,
    IncompleteImageError,
    OperationCancelled,
    SavefmtError,
    UnsupportedError,
    edit,
)

COOKIE = b"<cookie>\n  <cpu/>\n</cookie>\n"
TITLED = DOMAIN_XML.replace(b"</name>", b"</name>\n  <title>new</title>")
LONG = DOMAIN_XML.replace(b"</name>", b"</name>\n  <description>" + b"x" * 5000 + b"</description>")
FORMS = [*CODECS, "sparse"]


def make(form: str, **options: object) -> bytes:
    number = FORMS.index(form)
    prefix = make_envelope(format=number, **{"cookie": COOKIE, **options})  # type: ignore[arg-type]
    if form in ("raw", "sparse"):
        layout = "mapped-ram" if form == "sparse" else "sequential"
        return make_stream(
            layout=layout,
            prefix=prefix,
            stale={("pc.ram", 1): page(9)},
            bitmap_order=str(options.get("order", "little")),
        )
    return prefix + compress(form, make_stream())


def put(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def check_sound(path: Path) -> None:
    report = savefmt.check(path, level=CheckLevel.FULL)
    assert report.ok, report.findings


def xml_of(held: Held) -> bytes:
    return held.envelope[92:].partition(b"\0")[0]


# Dump.


def test_dump(tmp_path: Path) -> None:
    path = put(tmp_path, make("zstd"))

    assert edit.dump_xml(path) == DOMAIN_XML
    assert edit.dump_xml(path, cookie=True) == COOKIE


def test_nothing_to_dump(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a bare stream has no domain XML"):
        edit.dump_xml(put(tmp_path, make_stream()))
    with pytest.raises(UnsupportedError, match="the image has no cookie"):
        edit.dump_xml(put(tmp_path, make("raw", cookie=None)), cookie=True)


# In place.


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", FORMS)
def test_what_fits_is_written_in_place(form: str, order: str, tmp_path: Path) -> None:
    path = put(tmp_path, make(form, order=order))
    before, inode = hold(path, bitmap_order=order), path.stat().st_ino
    path.chmod(0o640)

    report = edit.set_xml(path, TITLED)

    after = hold(path, bitmap_order=order)
    assert (report.changed, report.moved) == (True, False)
    assert report.changes == ("domain XML replaced",)
    assert path.stat().st_ino == inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert xml_of(after) == TITLED
    assert edit.dump_xml(path, cookie=True) == COOKIE
    assert len(after.envelope) == len(before.envelope)
    assert after.stream == before.stream
    assert after.envelope[:32] + after.envelope[36:92] == (
        before.envelope[:32] + before.envelope[36:92]
    )
    check_sound(path)


def test_documents_to_the_last_byte(tmp_path: Path) -> None:
    path = put(tmp_path, make("raw", padding=len(LONG) - len(DOMAIN_XML)))
    assert not edit.set_xml(path, LONG).moved
    assert edit.dump_xml(path, cookie=True) == COOKIE

    path = put(tmp_path, make("raw", padding=len(LONG) - len(DOMAIN_XML) - 1))
    assert edit.set_xml(path, LONG).moved
    assert edit.dump_xml(path, cookie=True) == COOKIE


def test_the_cookie(tmp_path: Path) -> None:
    path = put(tmp_path, make("sparse"))
    new = b"<cookie><slirpHelper/></cookie>"

    report = edit.set_xml(path, new, cookie=True)

    assert report.changes == ("cookie replaced",)
    assert edit.dump_xml(path, cookie=True) == new
    assert edit.dump_xml(path) == DOMAIN_XML
    check_sound(path)


def test_a_first_cookie(tmp_path: Path) -> None:
    path = put(tmp_path, make("raw", cookie=None))

    edit.set_xml(path, COOKIE, cookie=True)

    assert edit.dump_xml(path, cookie=True) == COOKIE
    assert edit.dump_xml(path) == DOMAIN_XML


@pytest.mark.parametrize("running", [False, True])
def test_the_run_state(running: bool, tmp_path: Path) -> None:
    path = put(tmp_path, make("gzip", was_running=int(not running)))
    before = path.read_bytes()

    report = edit.set_xml(path, None, running=running)

    assert report.changes == ("the guest will " + ("resume" if running else "stay paused"),)
    assert path.read_bytes() == before[:24] + bytes([running]) + before[25:]
    assert not edit.set_xml(path, None, running=running).changed


def test_nothing_new_changes_nothing(tmp_path: Path) -> None:
    path = put(tmp_path, make("raw", was_running=7))
    before = path.stat()

    assert not edit.set_xml(path, DOMAIN_XML, running=True).changed
    assert not edit.set_xml(path, DOMAIN_XML + b"\0").changed
    assert not edit.set_xml(path, COOKIE, cookie=True).changed

    assert path.stat().st_mtime_ns == before.st_mtime_ns


# Moving the stream.


@pytest.mark.parametrize("form", FORMS)
def test_what_does_not_fit_moves_the_stream(form: str, tmp_path: Path) -> None:
    data = make(form)
    (tmp_path / "old").write_bytes(data)
    path = put(tmp_path, data)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 64055, 108)
    before = hold(path)

    report = edit.set_xml(path, LONG, running=False)

    after = hold(path)
    assert (report.changed, report.moved) == (True, True)
    assert xml_of(after) == LONG
    assert edit.dump_xml(path, cookie=True) == COOKIE
    assert after.envelope[24] == 0
    assert after.envelope[28:32] == before.envelope[28:32]
    assert len(after.envelope) == 92 + len(LONG) + 1 + len(COOKIE) + 1 + (64 << 10)
    assert_same_guest(before.image, after.image)
    if form != "sparse":
        assert data[len(before.envelope) :] == path.read_bytes()[len(after.envelope) :]
    assert savefmt.compare(tmp_path / "old", path).same
    check_sound(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    if os.geteuid() == 0:
        assert (path.stat().st_uid, path.stat().st_gid) == (64055, 108)
    assert sorted(os.listdir(tmp_path)) == ["image", "old"]


def test_a_moved_image_converts_to_the_same_bytes(tmp_path: Path) -> None:
    """What moved and what was written anew lie alike."""
    path = put(tmp_path, make("sparse"))
    edit.set_xml(path, LONG)

    savefmt.convert(path, tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_link_to_the_image_stays_one(tmp_path: Path) -> None:
    path = put(tmp_path, make("raw"))
    (tmp_path / "link").symlink_to("image")

    edit.set_xml(tmp_path / "link", LONG)

    assert (tmp_path / "link").is_symlink()
    assert edit.dump_xml(path) == LONG


def test_cancelling_the_move_keeps_the_image(tmp_path: Path) -> None:
    data = make("sparse")
    path = put(tmp_path, data)

    with pytest.raises(OperationCancelled):
        edit.set_xml(path, LONG, progress=lambda progress: False)

    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["image"]


def test_a_damaged_stream_is_not_moved(tmp_path: Path) -> None:
    data = make("raw")[:-10]
    path = put(tmp_path, data)

    with pytest.raises(SavefmtError) as caught:
        edit.set_xml(path, LONG)

    assert caught.value.path is not None
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["image"]


# Refused.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<name>tiny<", b"<name>other<", "name changes from tiny to other"),
        (b"aabbccddeeff", b"aabbccddee00", "UUID changes"),
        (b"unit='KiB'>16<", b"unit='KiB'>32<", "memory in KiB changes from 16 to 32"),
        (b"pc-q35-10.0", b"pc-q35-9.2", "machine type changes"),
        (b"<devices>", b"<devices><disk type='file'><target dev='vda'/></disk>", "is added"),
    ],
)
def test_what_would_break_the_guest_is_refused(
    old: bytes, new: bytes, message: str, tmp_path: Path
) -> None:
    data = make("zstd")
    path = put(tmp_path, data)
    xml = DOMAIN_XML.replace(old, new)

    with pytest.raises(ConversionError, match=message):
        edit.set_xml(path, xml)
    assert path.read_bytes() == data

    assert edit.set_xml(path, xml, check_abi=False).changed
    assert edit.dump_xml(path) == xml


@pytest.mark.parametrize(
    ("xml", "cookie", "message"),
    [
        (b"<domain", False, "not well-formed"),
        (b"<cookie/>", False, "begins with <cookie>"),
        (b"<domain/>", True, "begins with <domain>"),
        (b"", False, "not well-formed"),
        (b"<!DOCTYPE domain []><domain/>", False, "declares a document type"),
        (b"<domain>\0</domain>", False, "not well-formed"),
    ],
)
def test_bad_documents(xml: bytes, cookie: bool, message: str, tmp_path: Path) -> None:
    data = make("raw")
    path = put(tmp_path, data)

    with pytest.raises(CorruptError, match=message):
        edit.set_xml(path, xml, cookie=cookie)

    assert path.read_bytes() == data


def test_what_has_no_envelope_or_no_end(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a bare stream"):
        edit.set_xml(put(tmp_path, make_stream()), TITLED)
    with pytest.raises(IncompleteImageError):
        edit.set_xml(put(tmp_path, make("raw", magic=b"LibvirtQemudPart")), TITLED)
