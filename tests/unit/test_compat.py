"""Releases, machine types, verdicts: each fact once, by hand, and the law of conversions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from builder import RAM_ID, counted, make_envelope, make_stream, section_head, word
from hypothesis import given
from hypothesis import strategies as st
from oracle import compress

import savefmt
from savefmt.compat import relics
from savefmt.compat import traits as traits_module
from savefmt.compat.findings import reader_findings
from savefmt.compat.machines import Machine, Standing
from savefmt.compat.releases import FACTS, MILESTONES, Reader, Release, can
from savefmt.compat.rules import RULES, obstacles
from savefmt.compat.traits import Form, Traits, examine
from savefmt.compat.verdict import compatibility, forms_of, judge, options_for
from savefmt.errors import ConversionError, UnsupportedError
from savefmt.format.features import Feature, name_bits, unreadable_bits
from savefmt.model import Layout, Severity
from savefmt.reports import Answer

SEQUENTIAL, MAPPED = Layout.SEQUENTIAL, Layout.MAPPED_RAM


def traits(
    form: str = "raw", machine: str = "pc-q35-8.2", version: int | None = 2, **more: Any
) -> Traits:
    """Return traits of an image of that form."""
    layout = MAPPED if form == "sparse" else SEQUENTIAL
    codec = "raw" if form == "sparse" else form
    changed = {key: more.pop(key) for key in ("switchover", "mislabelled") if key in more}
    return Traits(Form(version, layout, codec, **changed), Machine.parse(machine), **more)


# Releases


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("9", Release(9)),
        ("9.0", Release(9)),
        ("10.0.2", Release(10, 0, 2)),
        ("0.9.4", Release(0, 9, 4)),
    ],
)
def test_releases(text: str, release: Release) -> None:
    assert Release.parse(text) == release


@pytest.mark.parametrize("text", ["", "9.", "v9", "9.0.0.0", "9-rc1", "-1", "٩", "99999"])
def test_what_is_no_release(text: str) -> None:
    with pytest.raises(ConversionError, match="not a release"):
        Release.parse(text)


def test_releases_are_ordered_by_number() -> None:
    texts = ["2.4", "2.12", "9.2", "10.0", "10.0.2", "10.1"]

    assert sorted(texts, key=Release.parse) == texts


@pytest.mark.parametrize("text", ["qemu=8.2.2", "QEMU=8.2.2", " qemu = 8.2.2"])
def test_readers(text: str) -> None:
    assert Reader.parse(text) == Reader("qemu", Release(8, 2, 2))


def test_the_libvirt_that_never_was() -> None:
    reader = Reader.parse("libvirt=proposed")

    assert (str(reader), reader.name) == ("libvirt proposed", "proposed")
    assert can(reader, "version-3")
    assert not can(Reader("libvirt", reader.release), "version-3")


@pytest.mark.parametrize("text", ["xen=4.0", "qemu=proposed", "libvirt", "libvirt=", "qemu 8.2"])
def test_what_is_no_reader(text: str) -> None:
    with pytest.raises(ConversionError):
        Reader.parse(text)


def test_every_fact_has_its_source() -> None:
    assert all(fact.source and fact.what for fact in FACTS)
    assert len({(fact.program, fact.key) for fact in FACTS}) == len(FACTS)
    for program in ("libvirt", "qemu"):
        assert any(fact.program == program for fact in FACTS)


@pytest.mark.parametrize(
    ("reader", "key", "holds"),
    [
        ("libvirt=10.3.9", "zstd", False),
        ("libvirt=10.4", "zstd", True),
        ("libvirt=11.1", "sparse", False),
        ("libvirt=11.2", "sparse", True),
        ("libvirt=99", "version-3", False),
        ("qemu=8.1", "file-uri", False),
        ("qemu=8.2", "file-uri", True),
        ("qemu=8.2.9", "mapped-ram", False),
        ("qemu=9.0", "mapped-ram", True),
        ("qemu=9.0", "direct-io", False),
        ("qemu=9.1", "direct-io", True),
        ("qemu=9.0", "block-migration", True),
        ("qemu=9.1", "block-migration", False),
        ("qemu=9.2", "switchover-start", False),
        ("qemu=10.0", "switchover-start", True),
    ],
)
def test_facts(reader: str, key: str, holds: bool) -> None:
    assert can(Reader.parse(reader), key) is holds


# Machine types


@pytest.mark.parametrize(
    ("name", "release", "standing"),
    [
        ("pc-q35-10.0", "9.2", Standing.TOO_NEW),
        ("pc-q35-10.0", "10.0", Standing.KNOWN),
        ("pc-q35-10.0", "10.0.2", Standing.KNOWN),
        ("pc-q35-10.0", "12.2", Standing.KNOWN),
        ("pc-q35-10.0", "13.0", Standing.DEPRECATED),
        ("pc-q35-10.0", "16.0", Standing.REMOVED),
        ("pc-q35-7.0", "10.0.2", Standing.DEPRECATED),
        ("pc-q35-7.1", "10.0.2", Standing.KNOWN),
        ("pc-q35-2.4", "10.0", Standing.DEPRECATED),
        ("pc-q35-4.1", "10.1", Standing.REMOVED),
        ("pc-q35-4.2", "10.1", Standing.DEPRECATED),
        ("pc-q35-4.2", "10.2", Standing.REMOVED),
        ("pc-q35-4.0.1", "9.0", Standing.KNOWN),
        ("pc-i440fx-2.0", "9.0", Standing.KNOWN),
        ("pc-i440fx-2.3", "9.1", Standing.REMOVED),
        ("pc-i440fx-1.7", "8.1", Standing.KNOWN),
        ("pc-i440fx-1.7", "8.2", Standing.REMOVED),
        ("pc-1.3", "5.2", Standing.KNOWN),
        ("pc-1.3", "6.0", Standing.REMOVED),
        ("pc-0.15", "5.0", Standing.REMOVED),
        ("pc-0.11", "4.0", Standing.REMOVED),
        ("virt-9.2", "9.1", Standing.TOO_NEW),
        ("virt-4.2", "10.0", Standing.DEPRECATED),
        ("virt-2.6", "10.0", Standing.FOREIGN),
        ("virt-2.6", "10.1", Standing.REMOVED),
        ("pc-q35-2.3", "2.5", Standing.KNOWN),
        ("pc-q35-2.3", "2.6", Standing.REMOVED),
        ("microvm", "7.2", Standing.UNVERSIONED),
        ("microvm", "4.1", Standing.TOO_NEW),
        ("pc-q35-rhel9.4.0", "9.0", Standing.VENDOR),
        ("pc-i440fx-jammy", "9.0", Standing.VENDOR),
        ("pc-i440fx-jammy", "6.2", Standing.VENDOR),
        ("pc-i440fx-jammy", "6.1", Standing.TOO_NEW),
        ("pc-q35-noble-hpb", "8.1.5", Standing.TOO_NEW),
        ("ubuntu-q35", "9.0", Standing.FOREIGN),
        ("", "9.0", Standing.UNNAMED),
    ],
)
def test_machine_types(name: str, release: str, standing: Standing) -> None:
    assert Machine.parse(name).standing(Release.parse(release)) is standing


# Verdicts

YES, BUT, NO = Answer.YES, Answer.YES_BUT, Answer.NO


@pytest.mark.parametrize(
    ("image", "reader", "answer", "reason", "conversion"),
    [
        (traits(), "libvirt=1.0", YES, "", ()),
        (traits(version=1), "libvirt=0.5", YES, "", ()),
        (traits("gzip"), "libvirt=0.5", NO, "version 2", ("-O raw", "--save-version 1")),
        (traits("gzip"), "libvirt=1.0", BUT, "gzip must be in", ("-O raw",)),
        (traits("zstd"), "libvirt=10.3", NO, "10.4", ("-O raw",)),
        (traits("zstd"), "libvirt=10.4", BUT, "zstd must be in", ("-O raw",)),
        (traits(), "libvirt=proposed", YES, "", ()),
        (traits(version=3), "libvirt=proposed", YES, "", ()),
        (traits("zstd", version=3), "libvirt=proposed", BUT, "zstd must be in", ("-O raw",)),
        (traits("sparse"), "libvirt=proposed", NO, "11.2", ("--save-version 3",)),
        (traits("sparse", version=3), "libvirt=proposed", BUT, "9.0 or later", ("-O raw",)),
        (
            traits(version=3, mislabelled=True),
            "libvirt=proposed",
            NO,
            "not that of the stream",
            ("-O raw",),
        ),
        (traits("sparse"), "libvirt=11.1", NO, "11.2", ("-O raw",)),
        (traits("sparse"), "libvirt=11.2", BUT, "9.0 or later", ("-O raw",)),
        (traits(version=3), "libvirt=12.5", NO, "never released", ("--save-version 2",)),
        (
            traits("sparse", version=3),
            "libvirt=11.0",
            NO,
            "never released",
            ("-O raw", "--save-version 2"),
        ),
        (traits(mislabelled=True), "libvirt=11.3", NO, "not that of the stream", ("-O raw",)),
        (traits(version=None), "libvirt=11.3", NO, "bare", ()),
        (traits(finished=False), "libvirt=11.3", NO, "never finished", ()),
        (traits(has_cookie=True), "libvirt=3.0", BUT, "cookie", ()),
        (traits(unused=True), "libvirt=11.3", BUT, "spare words", ()),
        (traits(), "qemu=8.2", YES, "", ()),
        (traits(finished=False), "qemu=8.2", NO, "never finished", ()),
        (traits(machine="pc-q35-10.0"), "qemu=9.2", NO, "came with QEMU 10.0", ()),
        (traits(machine="pc-q35-4.1"), "qemu=10.1", NO, "was removed in QEMU 10.1", ()),
        (traits(machine="pc-q35-7.0"), "qemu=10.0", BUT, "will be removed in QEMU 13.0", ()),
        (traits(machine="pc-q35-rhel9.4.0"), "qemu=9.0", BUT, "RHEL's own", ()),
        (traits("sparse", machine="pc-q35-rhel9.4.0"), "qemu=8.2", NO, "mapped-ram", ()),
        (traits("sparse", machine="pc-q35-noble"), "qemu=2.4", NO, "came with QEMU 8.2", ()),
        (traits(), "qemu=99.9", NO, "was removed in", ()),
        (traits(machine="pc-q35-11.1"), "qemu=12.0", BUT, "does not know it", ()),
        (traits(), "libvirt=99.9", BUT, "does not know it", ()),
        (traits(machine=""), "qemu=9.0", BUT, "does not name", ()),
        (traits("sparse"), "qemu=8.2", NO, "9.0", ("-O raw",)),
        (traits("sparse"), "qemu=9.0", BUT, "page cache", ("-O raw",)),
        (traits("sparse"), "qemu=9.1", YES, "", ()),
        (traits("zstd"), "qemu=9.1", BUT, "decompressed", ("-O raw",)),
        (traits(machine="pc-q35-7.2"), "qemu=7.2", BUT, "descriptor", ()),
        (
            traits(machine="microvm", switchover=True),
            "qemu=9.2",
            NO,
            "command 11",
            ("--for qemu=9.2",),
        ),
        (traits(machine="microvm", switchover=True), "qemu=10.0", BUT, "no version", ()),
        (
            traits("sparse", machine="microvm", switchover=True),
            "qemu=8.2",
            NO,
            "mapped-ram",
            ("-O raw", "--for qemu=8.2"),
        ),
        (traits(has_uuid=True, machine="pc-q35-4.0"), "qemu=4.1", NO, "UUID", ()),
        (traits(has_bitmaps=True, machine="pc-q35-2.4"), "qemu=2.11", NO, "bitmaps", ()),
        (traits(capabilities=frozenset({"x-ignore-shared"})), "qemu=8.2", BUT, "left out", ()),
        (
            traits(capabilities=frozenset({"x-ignore-shared"}), machine="pc-q35-3.1"),
            "qemu=3.1",
            NO,
            "4.0",
            (),
        ),
        (
            traits("sparse", capabilities=frozenset({"x-ignore-shared"})),
            "qemu=10.0",
            NO,
            "together",
            ("-O raw",),
        ),
        (
            traits("sparse", capabilities=frozenset({"x-ignore-shared"})),
            "qemu=11.0",
            BUT,
            "left out",
            (),
        ),
        (traits(machine="microvm"), "qemu=4.1", NO, "came with QEMU 4.2", ()),
        (traits(compressed_pages=True), "qemu=9.1", NO, "was removed in QEMU 9.1", ()),
        (traits(compressed_pages=True), "qemu=9.0", BUT, "must be on", ()),
        (traits(sections=frozenset({"block"})), "qemu=9.1", NO, "block migration", ()),
        (traits(machine="pc-i440fx-2.4"), "qemu=2.3", NO, "configuration", ()),
    ],
)
def test_verdicts(
    image: Traits, reader: str, answer: Answer, reason: str, conversion: tuple[str, ...]
) -> None:
    verdict = judge(image, Reader.parse(reader))

    assert verdict.answer is answer, verdict
    assert reason in "; ".join(verdict.reasons)
    assert verdict.conversion == conversion


FORM_NAMES = st.sampled_from(["raw", "gzip", "zstd", "sparse"])
IMAGES = st.builds(
    traits,
    form=FORM_NAMES,
    machine=st.sampled_from(["pc-q35-10.0", "pc-q35-8.2", "pc-q35-2.4", "microvm", "x-9.0", ""]),
    version=st.sampled_from([2, 3, None]),
    switchover=st.booleans(),
    mislabelled=st.booleans(),
    has_cookie=st.booleans(),
    has_uuid=st.booleans(),
    finished=st.booleans(),
)


@given(image=IMAGES, reader=st.sampled_from(MILESTONES))
def test_a_conversion_that_is_named_helps(image: Traits, reader: Reader) -> None:
    """What judge() proposes leads to a form that judge() does not refuse."""
    verdict = judge(image, reader)
    assert (verdict.answer is NO) == any(o.blocks for o in obstacles(image, reader))
    if not verdict.conversion:
        return
    helps = [
        form
        for form in forms_of(image.form)
        if options_for(image.form, form, reader) == verdict.conversion
    ]
    wanted = {YES, BUT} if verdict.answer is NO else {YES}
    assert any(judge(image.shaped(form), reader).answer in wanted for form in helps)


@given(image=IMAGES, reader=st.sampled_from(MILESTONES))
def test_no_help_means_that_none_was_possible(image: Traits, reader: Reader) -> None:
    verdict = judge(image, reader)
    standing = image.machine.standing(reader.release)
    promised = reader.program == "libvirt" or standing not in (Standing.FOREIGN, Standing.VENDOR)
    if verdict.answer is NO and not verdict.conversion and promised:
        same_kind = [
            form
            for form in forms_of(image.form)
            if (form.version is None) == (image.form.version is None)
        ]
        assert all(judge(image.shaped(form), reader).answer is NO for form in same_kind)


def test_findings_follow_the_weight() -> None:
    image = traits("zstd", machine="microvm", switchover=True)
    found = list(reader_findings(image, [Reader.parse("qemu=9.2"), Reader.parse("libvirt=10.0")]))

    by_code = {finding.code: finding for finding in found}
    assert by_code["qemu.command"].severity is Severity.ERROR
    assert by_code["qemu.command"].advice == "savefmt convert --for qemu=9.2"
    assert by_code["qemu.machine"].severity is Severity.WARNING
    assert by_code["qemu.codec"].severity is Severity.NOTE
    assert by_code["libvirt.format"].advice == "savefmt convert -O raw"


def test_every_program_has_rules() -> None:
    assert set(RULES) == {reader.program for reader in MILESTONES}


# Traits of real bytes


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
@pytest.mark.parametrize("switchover", [True, False])
def test_command_11_is_found(layout: str, switchover: bool, tmp_path: Path) -> None:
    path = tmp_path / "image"
    stream = make_stream(layout=layout, machine="microvm", switchover=switchover)
    path.write_bytes(stream)

    with savefmt.open(path) as image:
        found = examine(image)

    assert found.form.switchover is switchover
    assert [stream[start:end] for start, end in found.cuts] == [b"\x08\0\x0b\0\0"] * switchover


def test_traits_of_an_unfinished_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    head = make_envelope(magic=b"LibvirtQemudPart", cookie=b"<cookie/>", unused=b"\1" + bytes(55))
    path.write_bytes(make_stream(prefix=head, uuid=bytes(range(16))))

    report = compatibility(path, [Reader.parse("libvirt=11.3")])
    with savefmt.open(path, strict=False) as image:
        found = examine(image)

    assert report.machine == "pc-q35-10.0"
    assert report.verdicts[0].answer is NO
    assert (found.finished, found.has_cookie, found.has_uuid, found.unused) == (
        False,
        True,
        True,
        True,
    )
    assert "timer" in found.sections


def with_compressed_page(stream: bytes, plain: int = 0) -> bytes:
    """Put a page that QEMU compressed behind as many pages of zeros into the first PART."""
    part = struct.pack(">BI", 2, RAM_ID)
    assert stream.count(part) == 1
    zeros = word(0, 0x02) + counted("pc.ram") + b"\0" + (word(0, 0x22) + b"\0") * plain
    return stream.replace(part, part + zeros + word(0x1000, 0x120) + b"\0\0\0\2xx")


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_pages_that_qemu_compressed_are_seen(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    stream = with_compressed_page(make_stream(machine="pc-q35-8.0", switchover=False))
    number = {"raw": 0, "zstd": 5}[codec]
    wire = stream if codec == "raw" else compress(codec, stream)
    path.write_bytes(make_envelope(format=number) + wire)

    older, newer = compatibility(
        path, [Reader.parse("qemu=9.0"), Reader.parse("qemu=9.1")]
    ).verdicts

    assert (older.answer, newer.answer) == (BUT, NO)
    assert newer.reasons[0] == "QEMU's `compress`, with which it was saved, was removed in QEMU 9.1"
    assert newer.conversion == ()


@pytest.mark.parametrize(("plain", "seen"), [(2, True), (3, False)])
def test_only_the_first_pages_are_looked_at(
    plain: int, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(with_compressed_page(make_stream(machine="pc-q35-8.0"), plain))
    monkeypatch.setattr(relics, "RECORDS_LOOKED_AT", 4)

    with savefmt.open(path) as image:
        assert relics.has_compressed_pages(image) is seen


def test_a_machine_newer_than_that_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traits_module, "has_compressed_pages", pytest.fail)
    (tmp_path / "image").write_bytes(make_stream(machine="pc-q35-9.1"))

    assert compatibility(tmp_path / "image", [Reader.parse("qemu=9.1")]).verdicts[0].answer is YES


def test_a_cut_stream_has_no_compressed_pages(tmp_path: Path) -> None:
    path = tmp_path / "image"
    whole = make_stream(machine="pc-q35-8.0", description=False)
    path.write_bytes(whole[: whole.index(struct.pack(">BI", 2, RAM_ID)) + 9])

    with savefmt.open(path) as image:
        assert not relics.has_compressed_pages(image)


def test_disks_of_block_migration_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "image"
    stream = make_stream(machine="pc-q35-8.0", switchover=False)
    ram = section_head(1, RAM_ID, "ram", 0, 4)
    disks = section_head(1, 5, "block", 0, 1) + word(0, 0x02) + struct.pack(">BI", 0x7E, 5)
    path.write_bytes(stream.replace(ram, disks + ram, 1))

    (verdict,) = compatibility(path, [Reader.parse("qemu=9.1")]).verdicts

    assert verdict.answer is NO
    assert "block migration" in verdict.reasons[0]


def test_dirty_bitmaps_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(commands=[(3, b"")], dirty_bitmaps=True))
    with savefmt.open(path) as image:
        assert examine(image).has_bitmaps

    path.write_bytes(make_stream(commands=[(3, bytes(16))]))
    with savefmt.open(path) as image:
        assert not examine(image).has_bitmaps


def test_the_xml_names_the_machine_where_the_stream_does_not(tmp_path: Path) -> None:
    path = tmp_path / "image"
    xml = b"<domain type='qemu'><os><type machine='pc-i440fx-2.3'>hvm</type></os></domain>\n"
    stream = make_stream(configuration=False, switchover=False)
    path.write_bytes(make_envelope(xml=xml) + stream)

    report = compatibility(path, [Reader.parse("qemu=2.4"), Reader.parse("qemu=9.1")])

    assert report.machine == "pc-i440fx-2.3"
    assert [verdict.answer for verdict in report.verdicts] == [BUT, NO]


# Feature bits


def test_bits_have_names() -> None:
    assert list(name_bits(0)) == []
    assert list(name_bits(1)) == ["0 (mapped-ram)"]
    assert list(name_bits(1 << 31 | 1)) == ["0 (mapped-ram)", "31"]


def test_a_bit_may_be_known_and_unreadable() -> None:
    table = (Feature(4, "frozen", "a bit of tomorrow", "tomorrow", readable=False),)

    assert unreadable_bits(0b10001, table) == 0b10001
    assert list(name_bits(0b10000, table)) == ["4 (frozen)"]


def test_unknown_bits_are_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "image"
    word = (1 | 1 << 3 | 1 << 9).to_bytes(4, "little")
    path.write_bytes(make_stream(prefix=make_envelope(version=3, unused=word + bytes(52))))

    with pytest.raises(UnsupportedError, match="feature bits 3, 9"):
        savefmt.open(path)
