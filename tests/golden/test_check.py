"""What the commands say of real images: nothing amiss where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import savefmt
from golden import load
from savefmt import CheckLevel, Layout

ALL = load.manifest()


def expected_codes(facts: dict[str, Any], level: CheckLevel) -> set[str]:
    """Return what the facts of an image lead one to expect."""
    full = level is CheckLevel.FULL
    mapped = facts["layout"] == "mapped-ram"
    raw = facts["codec"] == "raw"
    codes = set()
    if facts.get("mislabelled"):
        codes.add("envelope.mislabelled")
    if not facts.get("configuration", True):
        codes.add("stream.no-configuration")
    if not facts.get("description", True) and (full or mapped or raw):
        codes |= {"vmdescription.missing", "stream.guessed-length"}
    if not (full or raw):
        codes.add("stream.end-unseen")
    if not facts.get("footers", True) and (full or mapped):
        codes.add("stream.no-footers")
    if not facts.get("ram_end", True) and (full or mapped):
        codes.add("ram.no-end")
    if facts.get("ram_lost"):
        codes |= {"mappedram.empty", "mappedram.stale"}
    if facts.get("stale"):
        codes.add("mappedram.stale")
    if full and not mapped and (facts.get("ignored") or facts.get("plugged")):
        codes.add("ram.missing-pages")
    return codes


@pytest.mark.parametrize("name", ALL)
def test_findings_are_what_the_manifest_says(name: str, tmp_path: Path) -> None:
    facts = ALL[name]
    path = load.unpack(name, tmp_path)

    for level in CheckLevel:
        report = savefmt.check(path, level=level)

        assert {finding.code for finding in report.findings} == expected_codes(facts, level)
        notes = {"stream.no-configuration", "vmdescription.missing", "ram.no-end"}
        notes |= {"mappedram.stale", "ram.missing-pages", "stream.guessed-length"}
        notes.add("stream.end-unseen")
        assert report.ok == (expected_codes(facts, level) <= notes)
        assert report.summary is not None


@pytest.mark.parametrize("name", ALL)
def test_probe_tells_what_the_manifest_says(name: str, tmp_path: Path) -> None:
    facts = ALL[name]

    summary = savefmt.probe(load.unpack(name, tmp_path))

    assert summary.layout == facts["layout"]
    assert summary.codec == facts["codec"]
    assert summary.machine == (facts["machine"] if facts.get("configuration", True) else "")
    assert list(summary.capabilities) == facts["capabilities"]
    assert summary.mislabelled == facts.get("mislabelled", False)
    assert summary.uuid == facts.get("uuid")
    assert {block.idstr: block.used_length for block in summary.blocks} == {
        block: known["length"] for block, known in facts["blocks"].items()
    }
    assert (summary.envelope is not None) == (facts["kind"] == "libvirt")
    if summary.envelope is not None:
        assert summary.envelope.format == facts["format"]
        assert summary.envelope.was_running == facts["was_running"]
        assert summary.domain_name == facts["domain"]
    if facts.get("dense"):
        assert all(block.zero == 0 for block in summary.blocks)
    if summary.sections is not None:
        names = [section.idstr for section in summary.sections]
        assert names.count("cpu") == facts["vcpus"]


def test_seven_formats_hold_one_guest(tmp_path: Path) -> None:
    formats = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
    images = [load.unpack(f"libvirt-{name}", tmp_path) for name in formats]

    for image in images[1:]:
        result = savefmt.compare(images[0], image)
        assert result.blocks == ()


@pytest.mark.parametrize(
    "name", load.names(lambda facts: "twin" in facts and facts["layout"] == "sequential")
)
def test_twins_have_the_same_memory(name: str, tmp_path: Path) -> None:
    pair = [load.unpack(each, tmp_path) for each in (name, ALL[name]["twin"])]

    assert savefmt.compare(*pair).blocks == ()


def test_a_mislabelled_snapshot_becomes_loadable(tmp_path: Path) -> None:
    for name in load.names(lambda facts: facts.get("mislabelled", False)):
        path = load.unpack(name, tmp_path)

        savefmt.convert(path, tmp_path / "raw", codec="raw")
        savefmt.convert(path, tmp_path / "sparse", layout=Layout.MAPPED_RAM)

        for result in ("raw", "sparse"):
            report = savefmt.check(tmp_path / result, level=CheckLevel.FULL)
            assert report.findings == ()
            assert savefmt.compare(path, tmp_path / result).same


HEADERS = {
    "envelope.incomplete": (0, b"LibvirtQemudPart"),
    "envelope.length": (20, bytes(4)),
    "image.unsupported": (28, b"\0\1\0\0"),
    "envelope.cookie-offset": (32, b"\x21\0\0\0"),
}


@pytest.mark.parametrize(
    "name", ["libvirt-raw", "libvirt-zstd", "libvirt-devices", "libvirt-sparse"]
)
def test_a_header_that_lies_is_put_right(name: str, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)
    sound = path.read_bytes()
    for code, (offset, wrong) in HEADERS.items():
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(wrong)
        (first, *_) = savefmt.check(path, level=CheckLevel.FULL).findings
        assert first.code == code

        report = savefmt.repair(path, fixes=[first.repair or ""])

        assert report.ok
        assert path.read_bytes() == sound


def test_the_label_of_a_snapshot_is_put_right(tmp_path: Path) -> None:
    path = load.unpack("libvirt-mislabelled", tmp_path)
    before = path.read_bytes()

    savefmt.repair(path, fixes=["format"])

    assert path.read_bytes() == before[:28] + bytes(4) + before[32:]
    assert savefmt.check(path, level=CheckLevel.FULL).findings == ()
