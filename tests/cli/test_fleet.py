"""``savefmt fleet`` on real images, with real workers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builder import make_stream, page
from cli.fakes import Run
from documents import valid
from golden import load

import savefmt

NAMES = ("libvirt-devices", "libvirt-live", "libvirt-zstd", "q35-smp-mapped")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, and files that are none."""
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for name in NAMES:
        load.unpack(name, images / "deep" if name == "libvirt-zstd" else images)
    (images / "notes.txt").write_text("no image")
    (images / "empty").touch()
    whole = (images / "libvirt-live.save").read_bytes()
    (images / "short.save").write_bytes(whole[: len(whole) // 2])
    return images


def records(text: str) -> dict[str, dict[str, Any]]:
    """Return lines by the name of the image."""
    lines = [valid("fleet", line) for line in text.splitlines()]
    found = {os.path.basename(line["path"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def test_check_tells_what_check_tells(folder: Path, run: Run) -> None:
    outcome = run("fleet", "check", "--full", str(folder), "--output=jsonl")
    found = records(outcome.out)

    assert outcome.code == 2
    assert set(found) == {*(f"{n}.save" for n in NAMES[:3]), "q35-smp-mapped.stream", "short.save"}
    for line in found.values():
        alone = json.loads(run("check", "--full", line["path"], "-j").out)["reports"][0]
        assert line["result"] == alone["findings"]
        assert (line["verdict"] == "good") == alone["ok"]
        assert line["tries"] == 1
        assert line["version"] == savefmt.__version__
    assert found["short.save"]["verdict"] == "damaged"
    assert "machine type" in outcome.err
    assert outcome.err.splitlines()[-1].split() == ["all", "4", "1"]


def test_hash_tells_what_hash_tells(folder: Path, run: Run) -> None:
    found = records(run("fleet", "hash", str(folder / "*.save"), "--output=jsonl").out)

    line = found["libvirt-devices.save"]
    alone = json.loads(run("hash", line["path"], "-j").out)["hashes"]
    assert line["result"] == alone
    assert found["short.save"]["verdict"] == "damaged"


def test_audit_names_the_remedy(folder: Path, run: Run) -> None:
    image = str(folder / "libvirt-devices.save")
    outcome = run("fleet", "audit", image, "--for", "libvirt=10.0", "--output=jsonl")
    line = records(outcome.out)["libvirt-devices.save"]

    assert outcome.code == 2
    assert line["verdict"] == "refused"
    assert line["remedy"] == ["convert -O raw"]
    assert line["reasons"] == ["libvirt 10.0: the sparse format came with libvirt 11.2"]
    assert line["domain"] == "rich"
    assert line["result"]["verdicts"][0]["answer"] == "no"
    assert run("fleet", "audit", image, "--for", "qemu=11.0").code == 0


def test_search_counts_all_and_shows_some(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(blocks={"pc.ram": (b"needle" * 683)[:4096] * 4}))
    line = records(run("fleet", "search", str(path), "--text", "needle", "--output=jsonl").out)

    result = line["image"]["result"]
    assert (
        result["count"] == json.loads(run("search", str(path), "needle", "-c", "-j").out)["count"]
    )
    assert len(result["hits"]) == 100
    assert result["hits"][0]["data"] == b"needle".hex()


def test_convert_keeps_the_folders(folder: Path, tmp_path: Path, run: Run) -> None:
    cold = tmp_path / "cold"
    words = ("fleet", "convert", str(folder), "-O", "zstd", "--to", str(cold))
    assert run(*words, "--dry-run").code == 0  # it does not read so far
    assert not cold.exists()
    assert run(*words).code == 2

    for name in ("libvirt-devices.save", "deep/libvirt-zstd.save"):
        assert run("compare", str(folder / name), str(cold / name)).code == 0
        assert json.loads(run("info", str(cold / name), "-j").out)["images"][0]["codec"] == "zstd"
    made = {path.name for path in cold.rglob("*")}
    assert made == {"deep", *(f"{name}.save" for name in NAMES[:3]), "q35-smp-mapped.stream"}
    assert run(*words).code == 1  # they are there


def test_named_files_and_lists(folder: Path, tmp_path: Path, run: Run) -> None:
    targets = tmp_path / "list"
    targets.write_text(f"{folder / 'notes.txt'}\n\n{folder / 'libvirt-live.save'}\n")
    outcome = run("fleet", "check", "--from-file", str(targets), "--output=csv")
    rows = {os.path.basename(row["path"]): row for row in csv.DictReader(outcome.out.splitlines())}

    assert outcome.code == 63
    assert rows["notes.txt"]["verdict"] == "not-an-image"
    assert rows["libvirt-live.save"]["machine"].startswith("pc-q35")


def test_wrong_usage(tmp_path: Path, run: Run) -> None:
    for words in (
        (),
        ("x", "-o", "a.jsonl", "--resume", "a.jsonl"),
        ("x", "-o", "run.csv"),
        ("--jobs", "x"),
    ):
        assert run("fleet", "check", *words).code == 64
    assert run("fleet", "check", str(tmp_path / "none")).code == 1


def test_an_image_that_needs_too_much_is_told(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="sequential", blocks={"pc.ram": page(1) * 16384}))
    words = ("fleet", "hash", str(path), "--retries=0", "--output=jsonl", "--memory-limit=1M")
    line = records(run(*words).out)["image"]

    assert line["verdict"] == "failed"
    assert line["reasons"] == ["it took more memory than 1048576 bytes"]


def test_after_kill_a_run_goes_on_where_it_was(tmp_path: Path, run: Run) -> None:
    images = tmp_path / "images"
    images.mkdir()
    data = make_stream(layout="sequential", blocks={"pc.ram": page(1) * 2048})
    for number in range(60):
        (images / f"{number:02}.save").write_bytes(data)
    journal = tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "savefmt", "fleet", "hash", str(images), "-o", str(journal)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = journal.read_bytes().count(b"\n")
    shutil.copy(journal, tmp_path / "before")
    outcome = run("fleet", "hash", str(images), "--resume", str(journal))

    assert outcome.code == 0
    assert len(records(journal.read_text())) == 60
    assert f"{before} images done before" in outcome.err
    lines = (tmp_path / "before").read_bytes().splitlines(keepends=True)[:before]
    assert journal.read_bytes().startswith(b"".join(lines))


def test_ctrl_c_leaves_the_journal_whole(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    data = make_stream(layout="sequential", blocks={"pc.ram": page(1) * 2048})
    for number in range(60):
        (images / f"{number:02}.save").write_bytes(data)
    journal = tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "savefmt", "fleet", "hash", str(images), "-o", str(journal)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not journal.exists() or not journal.stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode in (130, 0)
    assert "Traceback" not in err
    assert len(records(journal.read_text())) >= 1
