"""What people read, and what programs read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from cli import samples
from cli.fakes import FakeLibrary, Run
from documents import valid

from savefmt.cli.render import plain as render
from savefmt.errors import CorruptError


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "0.977 KiB (1000 bytes)"),
        (67108864, "64 MiB (67108864 bytes)"),
        (1610612736, "1.5 GiB (1610612736 bytes)"),
        (1 << 60, "1 EiB (1152921504606846976 bytes)"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.211, "0.21 s"), (12.34, "12.3 s"), (59.96, "1:00"), (61, "1:01"), (3723, "1:02:03")],
)
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_nothing_from_a_file_reaches_the_terminal_raw() -> None:
    assert render.plain("pc.ram") == "pc.ram"
    assert render.plain("\x1b[31mred\n\x07\x9b") == "\\x1b[31mred\\n\\x07\\x9b"
    assert render.plain("caf\xe9 \u202e \udcff") == "caf\xe9 \\u202e \\udcff"


def test_info_fits_a_screen(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", samples.SUMMARY)

    lines = run("info", "guest.save").out.splitlines()

    assert len(lines) <= 24
    assert lines[:3] == [
        "image:         guest.save",
        "kind:          libvirt save image, version 2 (little-endian), complete",
        "domain:        demo",
    ]
    assert "  pc.ram    64 MiB (67108864 bytes), 16384 pages, 3141 present, 13243 zero" in lines
    assert "  shared    1 MiB (1048576 bytes), shared memory, left out of the image" in lines
    assert lines[-1] == "devices:       3 sections: timer, cpu x2"


def test_info_verbose_lists_sections(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", samples.SUMMARY)

    assert "  cpu/1 version 12, 900 bytes at 0x2400" in run("info", "-v", "a").out


def test_info_of_a_bare_stream(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", samples.BARE)

    out = run("info", "stream").out

    assert "bare QEMU stream" in out
    assert "domain" not in out
    assert "capabilities:  mapped-ram\n" in out
    assert "(--pages)" in out


@pytest.mark.parametrize(
    ("change", "word"),
    [({"state": "incomplete"}, "INCOMPLETE"), ({"mislabelled": True}, "MISLABELLED")],
)
def test_info_shouts_about_broken_images(
    library: FakeLibrary, run: Run, change: dict[str, Any], word: str
) -> None:
    library.answer("probe", replace(samples.SUMMARY, **change))

    assert word in run("info", "a").out


def test_info_json(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", samples.SUMMARY, CorruptError("bad", offset=4), samples.BARE)

    document = valid("info", run("info", "a", "b", "c", "--output=json").out)

    good, bad, bare = document["images"]
    assert good["envelope"]["format_name"] == "zstd"
    assert good["blocks"][0]["present"] == 3141
    assert bad == {
        "path": "b",
        "error": {
            "type": "CorruptError",
            "message": "bad",
            "path": "b",
            "offset": 4,
            "errno": None,
        },
    }
    assert bare["envelope"] is None


def test_check_text(library: FakeLibrary, run: Run) -> None:
    findings = samples.report(samples.NOTE, samples.WARNING, samples.ERROR)
    library.answer("check", findings, findings)

    assert run("check", "guest.save").out.splitlines() == [
        "warning: unused header words are not zero (at offset 0x24) [envelope.unused-nonzero]",
        "    a newer libvirt may have written this image",
        "error: a page lies beyond its block (at offset 0x9000) [ram.page-outside]",
        "guest.save: damaged, quick check (1 error, 1 warning, 1 note)",
    ]
    assert "note: the padding is short" in run("check", "-v", "guest.save").out


def test_check_sound(library: FakeLibrary, run: Run) -> None:
    library.answer("check", samples.report())

    assert run("check", "guest.save").out == "guest.save: sound, quick check\n"


def test_check_color(library: FakeLibrary, run: Run) -> None:
    library.answer("check", *[samples.report(samples.ERROR)] * 3)

    assert "\x1b[31merror\x1b[0m" in run("check", "a", "--color=always").out
    assert "\x1b" not in run("check", "a").out
    assert "\x1b" not in run("check", "a", "--color=always", "-j").out


def test_check_json(library: FakeLibrary, run: Run) -> None:
    library.answer("check", samples.report(samples.WARNING), CorruptError("bad"), samples.report())

    document = valid("check", run("check", "a", "b", "c", "-j").out)

    assert document["reports"][0]["ok"] is False
    assert document["reports"][0]["worst"] == "warning"
    assert document["reports"][1]["error"]["message"] == "bad"
    assert document["reports"][2]["worst"] is None


def test_compare_text(library: FakeLibrary, run: Run) -> None:
    library.answer("compare", samples.DIFFERENT, samples.SAME, samples.DIFFERENT)

    assert run("compare", "a", "b", "--pages").out.splitlines() == [
        "RAM pc.ram: 3 pages differ",
        "  0x10000 to 0x12000: 2 pages",
        "  0x63000 to 0x64000: 1 page",
        "RAM vga.vram: only in a",
        "device cpu/1: content differs",
        "note: one is mapped-ram, the other sequential",
        "different: 2 RAM blocks, 1 device section",
    ]
    assert run("compare", "a", "b").out == "same guest: memory and devices are identical\n"
    assert run("compare", "-q", "a", "b").out == ""


def test_compare_json(library: FakeLibrary, run: Run) -> None:
    library.answer("compare", samples.DIFFERENT, CorruptError("bad"))

    document = valid("compare", run("compare", "a", "b", "-j").out)

    assert document["comparison"]["same"] is False
    assert document["comparison"]["blocks"][0]["runs"] == [
        {"first": 16, "count": 2},
        {"first": 99, "count": 1},
    ]
    valid("compare", run("compare", "a", "b", "-j").out)


def test_convert_text(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION)

    assert run("convert", "guest.save", "guest.sparse", "-O", "sparse").out.splitlines() == [
        "wrote guest.sparse: mapped-ram, codec raw, save version 2",
        "  from sequential, codec zstd, 5 MiB (5242880 bytes)",
        "  to 66 MiB (69206016 bytes), 13 MiB (13631488 bytes) on disk",
        "  3141 pages with data",
        "  changed: capability mapped-ram added",
        "  in 0.25 s (20 MiB/s read, direct)",
        "  verified: sha256:00ff",
    ]


def test_convert_dry_run_promises_only(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", replace(samples.CONVERSION, dry_run=True, digest=None))

    out = run("convert", "a", "b", "-n").out

    assert out.startswith("would write")
    assert " s (" not in out


def test_convert_json(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION)

    document = valid("convert", run("convert", "a", "b", "-j").out)

    assert document["conversion"]["target_layout"] == "mapped-ram"


def test_export_text(library: FakeLibrary, run: Run) -> None:
    library.answer("export", samples.EXPORT)

    outcome = run("export", "guest.save", "guest.core")

    assert outcome.out.splitlines() == [
        "wrote guest.core: ELF core, universal layout",
        "  66 MiB (69206016 bytes) of memory in 3 ranges, 2 vCPUs",
        "  3141 pages with data",
        "  VMCOREINFO found by its name in memory",
        "  note: left out",
        "  66 MiB (69206016 bytes), 13 MiB (13631488 bytes) on disk",
        "  in 0.25 s (20 MiB/s read, buffered)",
    ]
    assert outcome.err == "savefmt: guest.save: warning: no CMOS tells\n"


def test_export_json(library: FakeLibrary, run: Run) -> None:
    library.answer("export", samples.EXPORT, CorruptError("bad"))

    document = valid("export", run("export", "a", "b", "-j").out)

    assert document["export"]["findings"][0]["code"] == "memmap.no-cmos"
    valid("export", run("export", "a", "b", "-j").out)


def test_map_text(library: FakeLibrary, run: Run) -> None:
    library.answer_open(*samples.EXTENTS)

    heading, first, second = run("map", "a").out.splitlines()

    assert heading.split() == ["Start", "Length", "Kind", "File", "offset", "Stride", "Block"]
    assert first.split() == ["0x0", "0x3000", "data", "0x100000", "0x1000", "pc.ram"]
    assert second.split() == ["0x3000", "0x1000", "zero", "-", "-", "pc.ram"]


def test_map_json(library: FakeLibrary, run: Run) -> None:
    library.answer_open(*samples.EXTENTS)

    document = valid("map", run("map", "a", "-j").out)

    assert document["complete"] is True
    assert [extent["kind"] for extent in document["extents"]] == ["data", "zero"]


def test_map_json_stays_whole_when_reading_fails(library: FakeLibrary, run: Run) -> None:
    library.answer_open(samples.EXTENTS[0], CorruptError("cut", offset=9))

    outcome = run("map", "a", "-j")

    assert outcome.code == 1
    assert valid("map", outcome.out)["complete"] is False
    assert outcome.err == "savefmt: a: cut (at offset 0x9)\n"


def test_map_of_nothing(library: FakeLibrary, run: Run) -> None:
    library.answer_open()

    assert valid("map", run("map", "a", "-j").out)["extents"] == []


def test_map_lines(library: FakeLibrary, run: Run) -> None:
    library.answer_open(*samples.EXTENTS)

    lines = [json.loads(line) for line in run("map", "a", "--output=jsonl").out.splitlines()]

    assert [line["offset"] for line in lines] == [0x100000, None]
    assert all(line["schema"] == 1 for line in lines)


def test_edit_text(library: FakeLibrary, run: Run) -> None:
    library.answer_edit(set_xml=[samples.EDIT, samples.EDIT])

    assert run("xml", "set", "guest.save", "--paused").out.splitlines() == [
        "guest.save: changed, and moved the stream to make room",
        "  title",
        "  run state: paused",
    ]
    assert valid("xml", run("xml", "set", "guest.save", "--paused", "-j").out)["edit"]["moved"]


def test_names_in_results_cannot_steer_the_terminal(library: FakeLibrary, run: Run) -> None:
    evil = "\x1b]0;owned\x07"
    library.answer("probe", replace(samples.SUMMARY, domain_name=evil, machine=evil))
    library.answer_open(replace(samples.EXTENTS[0], block=evil))

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", run("info", "a").out + run("map", "a").out)
