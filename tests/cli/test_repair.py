"""``savefmt repair``: what it lists, what it says that it did, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builder import make_envelope, make_stream
from cli.fakes import Run

SOUND = make_envelope(cookie=b"<cookie/>") + make_stream()
LABELLED = SOUND[:28] + b"\6" + SOUND[29:]
LISTED = [
    "  --fix format: the header says format 0 (raw), not format 6 (sparse) (1 byte)",
    "      for envelope.mislabelled",
    "  --fix trailing: what follows the stream is cut off (999 bytes)",
    "      for stream.trailing-data",
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Labelled sparse, with bytes behind the stream."""
    path = tmp_path / "image"
    path.write_bytes(LABELLED + bytes(999))
    return path


def test_the_list(image: Path, run: Run) -> None:
    outcome = run("repair", str(image))

    assert outcome.code == 3
    assert outcome.out.splitlines() == [f"{image}: 2 repairs possible", *LISTED]
    assert image.read_bytes() == LABELLED + bytes(999)
    assert run("repair", "-q", str(image)).out == ""


def test_one_of_two(image: Path, run: Run) -> None:
    tried = run("repair", "-n", "--fix", "format", str(image))
    assert image.read_bytes() == LABELLED + bytes(999)
    outcome = run("repair", "--fix", "format", str(image))

    left = "  not asked for: --fix trailing"
    assert (tried.code, outcome.code) == (0, 0)
    assert tried.out.splitlines() == [f"would repair {image}", *LISTED[:2], left]
    assert outcome.out.splitlines() == [f"repaired {image}", *LISTED[:2], left]
    assert image.read_bytes() == SOUND + bytes(999)


def test_all_by_a_new_file(image: Path, run: Run) -> None:
    outcome = run("repair", "--fix", "all", str(image))

    first = f"repaired {image}, by a new file in its place"
    assert outcome.code == 0
    assert outcome.out.splitlines() == [first, *LISTED]
    assert image.read_bytes() == SOUND
    assert run("repair", str(image)).out == f"{image}: nothing to repair\n"
    assert run("repair", "--fix", "all", str(image)).code == 0


def test_a_copy(image: Path, tmp_path: Path, run: Run) -> None:
    target = tmp_path / "copy"
    words = ("repair", str(image), str(target), "--fix", "all")

    assert run(*words).code == 0
    assert target.read_bytes() == SOUND
    assert image.read_bytes() == LABELLED + bytes(999)
    assert run(*words).code == 1
    assert run(*words, "-F").code == 0


def test_what_no_repair_helps(image: Path, run: Run) -> None:
    image.write_bytes(SOUND[:-50])

    outcome = run("repair", str(image))
    refused = run("repair", "--fix", "magic", str(image))

    assert outcome.code == 2
    assert outcome.out.startswith(f"{image}: damaged, and no repair helps\n  no repair for ")
    assert refused.code == 1
    assert "magic is not repaired: nothing of that kind is wrong" in refused.err


def test_an_error_that_is_left(image: Path, run: Run) -> None:
    image.write_bytes(LABELLED[:-50])

    assert run("repair", str(image)).code == 3
    outcome = run("repair", "--fix", "all", str(image))

    assert outcome.code == 2
    assert "  no repair for " in outcome.out
    assert image.read_bytes() == SOUND[:-50]


def test_an_error_that_was_not_asked_for(image: Path, run: Run) -> None:
    image.write_bytes(b"LibvirtQemudPart" + LABELLED[16:])

    outcome = run("repair", "--fix", "all", str(image))

    assert outcome.code == 3
    assert "  not asked for: --fix magic\n" in outcome.out
    assert run("repair", "--fix", "all", str(image)).code == 3
    assert run("repair", "--fix", "magic", str(image)).code == 0
    assert image.read_bytes() == SOUND


def test_a_missing_description_is_told(image: Path, run: Run) -> None:
    image.write_bytes(make_envelope() + make_stream(description=False))

    outcome = run("repair", str(image))

    assert outcome.code == 0
    assert "no repair for vmdescription.missing" in outcome.out


def test_json(image: Path, run: Run) -> None:
    document = json.loads(run("repair", "-j", "--fix", "format", str(image)).out)["repair"]

    assert document["made"] == ["format"]
    assert [offer["repair"] for offer in document["offers"]] == ["format", "trailing"]
    assert [offer["length"] for offer in document["offers"]] == [1, 999]
    assert document["ok"]


def test_wrong_usage(image: Path, tmp_path: Path, run: Run) -> None:
    assert run("repair", str(image), str(tmp_path / "copy")).code == 64
    assert run("repair", "--fix", "nonsense", str(image)).code == 64
    assert run("repair", str(tmp_path / "missing")).code == 1


def test_check_names_the_repair(image: Path, run: Run) -> None:
    out = run("check", "-v", str(image)).out
    findings = json.loads(run("check", "-j", str(image)).out)["reports"][0]["findings"]

    assert "    `savefmt repair --fix format` puts it right\n" in out
    assert "    `savefmt repair --fix trailing` puts it right\n" in out
    assert {one["code"]: one["repair"] for one in findings} == {
        "envelope.mislabelled": "format",
        "stream.trailing-data": "trailing",
    }
    audit = run("fleet", "check", str(image)).out
    assert "repair --fix format" in audit
