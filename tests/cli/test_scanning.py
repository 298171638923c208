"""The commands that go through memory, on small images."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builder import PAGE_SIZE, make_stream, page
from cli.fakes import Outcome, Run
from documents import valid
from golden import load
from scanning import needs_re2, padded, write_form

from savefmt.cli.render.document import json_text
from savefmt.cli.render.search import hit_object, hit_values
from savefmt.scan.results import Hit

BLOCKS = {
    "pc.ram": padded(b"one needle\x1b[31m, two needles".ljust(5000, b"\0") + b"needle"),
    "pc.bios": page(1) + bytes(PAGE_SIZE),
}


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A small guest."""
    return str(write_form(tmp_path, "mapped", BLOCKS))


# --- search ---


def test_search_shows_places_and_contents(run: Run, image: str) -> None:
    outcome = run("search", image, "needle")

    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["pc.ram+0x4", "pc.ram+0x15", "pc.ram+0x1388"]
    assert "one needle.[31m, two needl" in lines[0]
    assert "\x1b" not in outcome.out


def test_search_marks_what_matched(run: Run, image: str) -> None:
    assert "one \x1b[1;31mneedle\x1b[0m." in run("search", image, "needle", "--color=always").out


def test_search_that_finds_nothing(run: Run, image: str) -> None:
    outcome = run("search", image, "haystack")

    assert (outcome.code, outcome.out) == (1, "")


def test_search_json(run: Run, image: str) -> None:
    document = valid("search", run("search", image, "--hex", "6e65?? 64", "-j", "--context=2").out)

    assert document["complete"] is True
    assert document["hits"][0] == {
        "pattern": "6e65?? 64",
        "block": "pc.ram",
        "offset": 4,
        "length": 4,
        "physical": document["hits"][0]["physical"],
        "virtual": [],
        "data": b"need".hex(),
        "before": b"e ".hex(),
        "after": b"le".hex(),
    }
    lines = run("search", image, "--bytes", r"needle\x1b", "--output=jsonl").out.splitlines()
    assert [json.loads(line)["offset"] for line in lines] == [4]


def test_search_writes_the_json_that_the_values_make() -> None:
    for hit in (
        Hit('a\udcff"\x7f\n', "pc\x1b.ram", 5, 2, (1, 0x1F), (), b"ab"),
        Hit("\u00e9", "r", 0, 70, (), (1 << 63, 2), bytes(70), b"\xff", b"q"),
    ):
        assert hit_object(hit) == json_text(hit_values(hit))


def test_search_csv(run: Run, image: str) -> None:
    out = run("search", image, "needle", "--output=csv", "--max-count=2").out

    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["block"], row["offset"]) for row in rows] == [
        ("pc.ram", "0x4"),
        ("pc.ram", "0x15"),
    ]
    assert {row["data"] for row in rows} == {b"needle".hex()}


@needs_re2
def test_a_cell_of_search_csv_is_no_formula(run: Run, image: str) -> None:
    out = run("search", image, "--regex", "=?needle", "--output=csv", "--max-count=1").out

    assert [row["pattern"] for row in csv.DictReader(out.splitlines())] == ["'=?needle"]


def test_search_counts(run: Run, image: str) -> None:
    assert run("search", image, "needle", "-c").out == "3\n"
    assert valid("search", run("search", image, "needle", "-c", "-j").out)["count"] == 3
    assert run("search", image, "needle", "-c", "--block=pc.bios").out == "0\n"


def test_search_for_the_lines_of_a_file(run: Run, image: str, tmp_path: Path) -> None:
    listed = tmp_path / "texts"
    listed.write_text("no such thing\n\nneedle\none needle\nneedle\n")
    nothing = tmp_path / "nothing"
    nothing.write_text("\n")

    lines = run("search", image, "-f", str(listed), "--output=jsonl").out.splitlines()

    found = [valid("search", line)["pattern"] for line in lines]
    alone = run("search", image, "needle", "-c").out
    assert found.count("needle") == int(alone)
    assert set(found) == {"needle", "one needle"}
    assert run("search", image, "-f", str(listed), "-c", "-i", "NEEDLE").out == "7\n"
    empty = run("search", image, "-f", str(nothing))
    assert (empty.code, "nothing has no text to look for" in empty.err) == (64, True)
    missing = run("search", image, "-f", str(tmp_path / "missing"))
    assert (missing.code, "No such file" in missing.err) == (2, True)
    listed.write_text(f"needle\n{5000 * 'x'}\n")
    refused = run("search", image, "-f", str(listed))
    assert (refused.code, "texts: line 2: the pattern has" in refused.err) == (64, True)
    listed.write_text(100_001 * "x\n")
    many = run("search", image, "-f", str(listed))
    assert (many.code, "texts has more than 100000 lines" in many.err) == (64, True)


def test_search_takes_no_endless_file(run: Run, image: str) -> None:
    endless = run("search", image, "-f", "/dev/zero")

    assert (endless.code, "or 16 MiB of text; look for fewer" in endless.err) == (64, True)


def test_search_for_lines_of_standard_input(run: Run, image: str) -> None:
    many = "".join(f"needle {number}\n" for number in range(200))
    command = [sys.executable, "-m", "savefmt", "search", image, "-c", "-f", "-"]

    done = subprocess.run(command, input=f"{many}needle\n", capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, run("search", image, "needle", "-c").out)


def test_search_encodings(run: Run, tmp_path: Path) -> None:
    words = "Grüße".encode() + bytes(2) + "Grüße".encode("utf-16le")
    path = str(write_form(tmp_path, "mapped", {"ram": padded(words)}))

    out = run("search", path, "Grüße", "--encoding=utf-8", "--encoding=utf-16le", "--output=jsonl")
    assert [json.loads(line)["pattern"] for line in out.out.splitlines()] == [
        "Grüße (utf-8)",
        "Grüße (utf-16le)",
    ]


def test_search_with_rules(run: Run, image: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yar"
    rules.write_text('rule Sewing { strings: $n = "needles" condition: $n }')

    [line] = run("search", image, "--yara", str(rules), "--output=jsonl").out.splitlines()
    assert json.loads(line)["pattern"] == "Sewing $n"


def test_search_tells_virtual_addresses(run: Run, tmp_path: Path) -> None:
    path = str(load.unpack("guest/q35-16m", tmp_path))

    outcome = run("search", path, "EVAS", "--virtual", "--max-count=3", "--block=pc.ram")
    assert outcome.out.count(" p=0x") == 3
    assert " p=0x100001 v=0x100001 v=0x40100001  " in outcome.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "nothing to look for"),
        (["--hex", "xyz"], "hexadecimal"),
        pytest.param(["--regex", "("], "regular expression", marks=needs_re2),
        (["--bytes", r"\q"], "escapes"),
        (["needle", "--yara", "rules"], "without other patterns"),
        (["needle", "--cpu", "1"], "go with --virtual"),
        (["needle", "--context", "5000"], "4096"),
        (["näh", "--encoding", "ascii"], "cannot be written"),
    ],
)
def test_search_refuses_nonsense(words: list[str], reason: str, run: Run, image: str) -> None:
    outcome = run("search", image, *words)

    assert outcome.code == 64
    assert reason in outcome.err


@pytest.mark.parametrize("words", [["search", "x"], ["hash"], ["strings"], ["stats"], ["os"]])
def test_failures_are_one_line(words: list[str], run: Run, tmp_path: Path, image: str) -> None:
    command, *rest = words
    code = 2 if command == "search" else 1

    def fails(outcome: Outcome, reason: str) -> None:
        assert outcome.code == code
        assert reason in outcome.err
        assert len(outcome.err.splitlines()) == 1

    fails(run(command, str(tmp_path / "none"), *rest), "No such file")
    if command != "os":
        fails(run(command, image, *rest, "--block=nix"), "no RAM block 'nix'; it has: pc.ram")
    if command not in ("strings", "os"):
        outcome = run(command, image, *rest, "--block=nix", "-j")
        assert valid(command, outcome.out)["error"]["type"] == "AddressError"


# --- the others ---


def test_hash_and_check(run: Run, image: str, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(run("hash", image, "--pages").out)
    other = str(write_form(tmp_path, "gzip", BLOCKS))

    good = run("hash", other, "--check", str(manifest))
    assert (good.code, good.out.splitlines()) == (
        0,
        ["block:pc.ram: OK", "block:pc.bios: OK", "memory: OK"],
    )
    assert run("hash", other, "--check", str(manifest), "-q").out == ""
    changed = str(write_form(tmp_path, "sequential", {**BLOCKS, "pc.bios": page(1) + page(2)}))
    bad = run("hash", changed, "--check", str(manifest))
    assert bad.code == 1
    assert bad.out.splitlines()[1:] == [
        "page:pc.bios@0x1000: FAILED",
        "block:pc.bios: FAILED",
        "memory: FAILED",
    ]
    assert "3 of 7 hashes do not match" in bad.err
    document = valid("hash", run("hash", changed, "--check", str(manifest), "-j").out)
    assert {"label": "memory", "result": "failed"} in document["checks"]
    manifest.write_text("nothing of the kind")
    assert run("hash", image, "--check", str(manifest)).code == 1
    assert run("hash", image, "--check", str(manifest), "--pages").code == 64


def test_hash_json(run: Run, image: str) -> None:
    document = valid("hash", run("hash", image, "-j", "-a", "md5").out)

    assert [one["kind"] for one in document["hashes"]] == ["block", "block", "memory"]
    lines = run("hash", image, "--output=jsonl", "--block=pc.bios").out.splitlines()
    assert [json.loads(line)["block"] for line in lines] == ["pc.bios"]


def test_strings(run: Run, image: str) -> None:
    assert run("strings", image).out.splitlines() == [
        "pc.ram+0x0 one needle",
        "pc.ram+0xb [31m, two needles",
        "pc.ram+0x1388 needle",
    ]
    assert run("strings", image, "--places=none", "--min-length=11").out == "[31m, two needles\n"
    [first, *_] = run("strings", image, "--output=jsonl").out.splitlines()
    assert json.loads(first)["text"] == "one needle"
    assert run("strings", image, "--min-length=0").code == 64
    assert run("strings", image, "-e", "utf-16le").out == ""


def test_stats(run: Run, image: str) -> None:
    document: Any = valid("stats", run("stats", image, "-j").out)["stats"]

    assert (document["pages"], document["zero"], document["distinct"]) == (4, 1, 3)
    out = run("stats", image).out
    assert "zero:       1 page, " in out
    assert out.splitlines()[-1].endswith("pc.bios")


def test_picture(run: Run, image: str, tmp_path: Path) -> None:
    target = tmp_path / "map.png"

    outcome = run("map", image, "--png", str(target), "-j", "--width=64")
    areas = valid("map", outcome.out)["picture"]["areas"]
    assert [area["pages"] for area in areas.values()] == [1, 1]
    assert list(areas) == ["pc.ram", "pc.bios"]
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "the target exists" in run("map", image, "--png", str(target)).err
    assert run("map", image, "--png", str(target), "-F", "--palette=entropy").code == 0
    assert run("map", image, "--png", str(target), "-F", "--against", image).code == 0
    for words in (["--width=0"], ["--palette=changed"], ["--palette=zero", "--against", image]):
        assert run("map", image, "--png", str(target), *words).code == 64
    assert run("map", image, "--force").code == 64


def test_system(run: Run, image: str, tmp_path: Path) -> None:
    outcome = run("os", image)
    assert (outcome.code, outcome.out) == (1, "system:       unknown\n")
    banner = b"Linux version 6.1.0 (me@here) (gcc \x1b[31m) #1 SMP 2026-01-01\n"
    banner += b"Linux version 6.1.0 (me@here) (gcc 12) #1 SMP 2026-01-01\n"
    linux = str(write_form(tmp_path, "gzip", {"pc.ram": padded(banner)}))
    assert run("os", linux).out.splitlines()[:2] == ["system:       Linux", "version:      6.1.0"]
    assert valid("os", run("os", linux, "-j").out)["system"]["system"] == "linux"


def test_fields_that_differ(run: Run, tmp_path: Path) -> None:
    one, two = (str(load.unpack(name, tmp_path)) for name in ("live", "live-mapped"))

    outcome = run("compare", "--fields", one, two)
    assert outcome.code == 1
    assert "  env.regs[1]: 0x6 | 0xc" in outcome.out.splitlines()
    document = valid("compare", run("compare", one, two, "-j").out)
    fields = {
        field["path"]: (field["left"], field["right"])
        for section in document["comparison"]["sections"]
        for field in section["fields"]
    }
    assert fields["env.regs[1]"] == ("0x6", "0xc")


def test_what_was_left_out_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(
        make_stream(
            layout="mapped-ram", blocks=BLOCKS, ignored=frozenset({"pc.ram"}), guest_addresses={}
        )
    )

    outcome = run("search", str(path), "needle")
    assert outcome.code == 1
    assert "'pc.ram' is not in this image" in outcome.err
