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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from builder import make_envelope, make_stream, page
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


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table."""
    yield from csv.DictReader(path.read_text().splitlines())


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


def test_a_list_or_a_journal_without_an_end(tmp_path: Path, run: Run) -> None:
    listed = run("fleet", "check", "--from-file", "/dev/zero")
    assert (listed.code, "/dev/zero: line 1 is too long for a name" in listed.err) == (1, True)

    journal = tmp_path / "run.jsonl"
    with journal.open("wb") as file:
        file.truncate(17 << 20)
    told = run("fleet", "report", str(journal), "-o", str(tmp_path / "page.html"))
    assert (told.code, "line 1 was not written by savefmt fleet" in told.err) == (1, True)


def test_a_cell_of_csv_is_no_formula(tmp_path: Path, run: Run) -> None:
    names = ("=1+1", "+1", "-1", "@x", "good=1")
    for number, name in enumerate(names):
        xml = f"<domain type='qemu'><name>{name}</name></domain>".encode()
        data = make_stream(prefix=make_envelope(xml=xml))
        (tmp_path / f"{number}.save").write_bytes(data)

    out = run("fleet", "check", str(tmp_path), "--output=csv").out

    domains = {row["domain"] for row in csv.DictReader(out.splitlines())}
    assert domains == {"'=1+1", "'+1", "'-1", "'@x", "good=1"}


def test_wrong_usage(tmp_path: Path, run: Run) -> None:
    for words in (
        (),
        ("x", "-o", "a.jsonl", "--resume", "a.jsonl"),
        ("x", "-o", "run.txt"),
        ("x", "--everywhere"),
        ("x", "--scheduler", "tcp://127.0.0.1:1", "--jobs=2"),
        ("--jobs", "x"),
    ):
        assert run("fleet", "check", *words).code == 64
    assert run("fleet", "check", str(tmp_path / "none")).code == 1


def test_what_cannot_be_looked_at_stops_nothing(folder: Path, run: Run) -> None:
    """A list is older than the files that it names."""
    targets = [str(folder / name) for name in ("gone.save", "none*", "deep", "libvirt-live.save")]
    found = records(run("fleet", "check", *targets, "--output=jsonl").out)

    assert {name: line["verdict"] for name, line in found.items()} == {
        "gone.save": "failed",
        "none*": "failed",
        "libvirt-zstd.save": "good",
        "libvirt-live.save": "good",
    }
    assert found["gone.save"]["reasons"] == ["No such file or folder"]
    assert found["gone.save"]["tries"] == 0


def test_workers_of_another_version_are_told_of(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = savefmt.__version__
    monkeypatch.setattr(savefmt, "__version__", "0.0.1+here")
    result = run("fleet", "check", str(folder), "--output=jsonl")

    lines = records(result.out).values()
    assert {line["version"] for line in lines} == {made}
    (host,) = {line["host"] for line in lines}
    assert result.err.count(f"{host} has savefmt {made}, and this is 0.0.1+here") == 1


def test_what_is_said_of_a_block_holds_where_there_is_one(tmp_path: Path, run: Run) -> None:
    """No rules know this machine: without the option, no address is known."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, block in (("one", "pc.ram"), ("other", "pc.rom")):
        content = {block: page(1) + b"needle".ljust(4096, b"\0")}
        (folder / name).write_bytes(make_stream(machine="unheard-of-1.0", blocks=content))
    words = ("fleet", "search", str(folder), "--text", "needle", "--output=jsonl")

    def addresses(*options: str) -> dict[str, list[int]]:
        found = records(run(*words, *options).out)
        return {name: line["result"]["hits"][0]["physical"] for name, line in found.items()}

    assert addresses() == {"one": [], "other": []}
    assert addresses("--place=pc.ram=0x10000") == {"one": [0x11000], "other": []}
    journal = ("--resume", str(tmp_path / "run.jsonl"))
    (tmp_path / "run.jsonl").touch()
    assert addresses("--place=pc.rom=4G", *journal) == {"one": [], "other": [0x100001000]}
    assert addresses("--place=pc.rom=4G", *journal) == {}
    assert len(addresses(*journal)) == 2  # which is another question
    assert run("fleet", "check", str(folder), "--place=pc.ram=0").code == 64


WIDE = [
    ((1 << 64) - 1, (1 << 64) - 1, (1 << 63) - 2),
    (1 << 64, -1, (1 << 63) - 1),  # the last stands for infinity
    (-1, 1 << 64, 1 - (1 << 63)),
    (0, 0, 2 - (1 << 63)),
    (10**30, 10**30, 10**30),
    (1, 2),
    (),
]


def test_a_table_holds_whatever_a_journal_may_say(tmp_path: Path) -> None:
    """A file of the year 2300, say, must not cost the table of a whole run."""
    from savefmt.cli.render.fleettable import writer
    from savefmt.fleet.records import FleetRecord, Outcome
    from savefmt.writing.output import OutputFile

    odd = "\0\ud800\x1b"
    made = [
        FleetRecord(
            *("1", "check", {odd: [odd, 1 << 80]}, odd, f"/{number}", False, identity),
            *(Outcome.GOOD, (odd,), (odd, ""), odd, odd, float(1 << 40), (1 << 31) - 1),
            {odd: -(10**40)},
        )
        for number, identity in enumerate(WIDE)
    ]
    read = [FleetRecord.from_line(record.line().encode()) for record in made]
    assert read == made
    for kind in (".parquet", ".csv"):
        with OutputFile(tmp_path / f"run{kind}", overwrite=False) as output:
            writer(kind)(read, output)
            output.commit()

    query = "SELECT inode, length, epoch_ns(modified), path, result, reasons FROM "
    with duckdb.connect(":memory:") as base:
        table = base.execute(f"{query}'{tmp_path / 'run.parquet'}' ORDER BY path").fetchall()
    assert [row[:3] for row in table] == [
        WIDE[0],
        (None, None, None),
        (None, None, None),
        WIDE[3],
        *[(None, None, None)] * 3,
    ]
    assert {row[4] for row in table} == {json.dumps({odd: -(10**40)})}
    assert table[0][5] == ["\\x00\\ud800\\x1b"]
    assert len(list(rows_of(tmp_path / "run.csv"))) == len(WIDE)


def test_tables_have_what_the_journal_has(folder: Path, tmp_path: Path, run: Run) -> None:
    odd = folder / "\udcff\n\x1b.save"
    shutil.copy(folder / "libvirt-live.save", odd)
    csv_file, parquet, journal = (tmp_path / f"run.{kind}" for kind in ("csv", "parquet", "jsonl"))
    assert run("fleet", "check", str(folder), "-o", str(parquet)).code == 2
    again = ("fleet", "check", str(folder), "--resume", str(journal))
    assert run(*again, "-o", str(csv_file)).code == 2
    told = records(journal.read_text())
    rows = {os.path.basename(r["path"]): r for r in rows_of(csv_file)}

    assert len(told) == 6
    assert {name for name in rows if "save" not in name or "x1b" in name} == {
        "q35-smp-mapped.stream",
        "\\udcff\\n\\x1b.save",
    }
    # DuckDB reads what it wrote; the columns are those of the documentation.
    query = f"SELECT * EXCLUDE modified, epoch_ns(modified) AS modified FROM '{parquet}'"
    with duckdb.connect(":memory:") as base:
        result = base.execute(query)
        names = [column[0] for column in result.description or ()]
        table = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    assert len(table) == len(rows) == 6
    for row in table:
        name = os.path.basename(row["path"])
        line = told.get(name) or told[odd.name]
        for same in ("host", "verb", "verdict", "domain", "machine", "seconds", "tries"):
            assert row[same] == line[same]
        assert [row["inode"], row["length"], row["modified"]] == line["identity"]
        assert json.loads(row["result"]) == line["result"]
        assert row["reasons"] == line["reasons"]
        assert rows[name]["verdict"] == line["verdict"]
        assert rows[name]["reasons"] == "; ".join(line["reasons"])
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (csv_file, parquet, journal))
    assert run(*again, "-o", str(csv_file)).code == 1  # it is there
    refused = run("fleet", "check", str(folder), "-o", str(tmp_path / "run.csv"))
    assert refused.code == 1
    assert "name another one" in refused.err  # there is no --force


def test_a_table_tells_the_newest_of_each_image(folder: Path, tmp_path: Path, run: Run) -> None:
    image, journal = folder / "libvirt-live.save", tmp_path / "run.jsonl"
    words = ("fleet", "check", str(image), "--resume", str(journal), "-o")
    run("fleet", "check", str(image), "-o", str(journal))
    image.write_bytes(image.read_bytes()[:5000])
    run(*words, str(tmp_path / "a.csv"))
    with journal.open("a") as file:
        file.write('{"torn')

    assert len(journal.read_text().splitlines()) == 3
    for name in ("a.csv", "b.csv"):
        if name == "b.csv":
            run(*words, str(tmp_path / "b.csv"))
        (row,) = rows_of(tmp_path / name)
        assert row["verdict"] == "damaged"


def test_an_image_that_needs_too_much_is_told(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="sequential", blocks={"pc.ram": page(1) * 16384}))
    words = ("fleet", "hash", str(path), "--retries=0", "--output=jsonl", "--memory-limit=1M")
    line = records(run(*words).out)["image"]

    assert line["verdict"] == "failed"
    assert line["reasons"] == ["it took more memory than 1048576 bytes"]


def links(folder: Path, count: int) -> Path:
    """Make a folder of images, which are one file with many names."""
    folder.mkdir()
    first = folder / "00.save"
    first.write_bytes(make_stream(layout="sequential", blocks={"pc.ram": page(1) * 2048}))
    for number in range(1, count):
        (folder / f"{number:02}.save").hardlink_to(first)
    return folder


def test_after_kill_a_run_goes_on_where_it_was(tmp_path: Path, run: Run) -> None:
    images = links(tmp_path / "images", 60)
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
    images = links(tmp_path / "images", 60)
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
