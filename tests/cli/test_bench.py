"""`savefmt bench` as people and programs see it."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from cli.fakes import Run
from documents import valid

from savefmt.errors import ImageIOError

QUICK = (
    "--fill",
    "--size",
    "1M",
    "-T",
    "1,2",
    "--window",
    "1M",
    "--repeat",
    "1",
    "--direct",
    "off",
)


@pytest.fixture(autouse=True)
def no_fio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: None)


def test_people_see_tables_and_a_conclusion(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", str(tmp_path), *QUICK)

    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"{tmp_path}: ")
    assert "no fio" in lines[2]
    assert "1 MiB (1048576 bytes) of the pattern dense, once" in outcome.out
    heads = [line for line in lines if line.endswith(":")]
    assert heads == [
        "pages written, as QEMU's multifd channels and savefmt do:",
        "pages read:",
        "one stream written through a pipe, as libvirt's helper does:",
    ]
    assert "Choose buffered I/O, " in outcome.out
    assert lines[-1].startswith("  savefmt convert SRC DST -O sparse -T ")
    assert max(map(len, lines)) < 120


def test_programs_get_json(run: Run, tmp_path: Path) -> None:
    document = valid("bench", run("bench", str(tmp_path), *QUICK, "-j").out)

    entries = document["bench"]["measurements"]
    assert [entry["work"] for entry in entries] == ["stream", "write", "read", "write", "read"]
    assert all(len(entry["runs"]) == 1 for entry in entries)
    assert document["bench"]["options"]["threads"] == [1, 2]


def test_spreadsheets_get_csv(run: Run, tmp_path: Path) -> None:
    rows = list(
        csv.DictReader(io.StringIO(run("bench", str(tmp_path), *QUICK, "--output=csv").out))
    )

    assert [row["work"] for row in rows] == ["stream", "write", "read", "write", "read"]
    assert {row["mode"] for row in rows} == {"buffered"}
    assert {row["engine"] for row in rows} == {"psync"}
    assert all(0 < float(row["latency_p50"]) <= float(row["latency_maximum"]) for row in rows)
    assert {(row["runs"], row["different"], row["steady"]) for row in rows} == {("1", "0", "")}
    assert all(int(row["rate_median"]) > 0 and row["fio_median"] == "" for row in rows)


def test_a_baseline_adds_a_column(run: Run, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(run("bench", str(tmp_path), *QUICK, "-j").out)

    outcome = run("bench", str(tmp_path), *QUICK, "--baseline", str(before))

    assert outcome.out.count("of before") == 3
    assert valid("bench", before.read_text())


def test_two_reports_are_compared(run: Run, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(run("bench", str(tmp_path), *QUICK, "-j").out)
    words = ("bench", "--compare", str(before), str(before))

    text = run(*words).out
    document = valid("bench", run(*words, "-j").out)["comparison"]
    rows = list(csv.DictReader(io.StringIO(run(*words, "--output=csv").out)))

    assert text.splitlines()[:2] == [f"A: {before}", f"B: {before}"]
    assert text.count("100%") == 5
    assert [entry["ratio"] for entry in document["settings"]] == [1] * 5
    assert [row["ratio"] for row in rows] == ["1.0000"] * 5
    assert run("bench").code == 64
    assert run("bench", "--compare", str(before), str(tmp_path / "missing")).code == 1


def test_a_fio_job_is_written(run: Run, tmp_path: Path) -> None:
    job = tmp_path / "job.fio"
    disk = tmp_path / "disk"
    disk.mkdir()

    outcome = run("bench", str(disk), *QUICK, "--jobs", "2", "--fio-job", str(job))
    again = run("bench", str(disk), *QUICK, "--fio-job", str(job))

    assert outcome.code == 0
    assert "for each of 2 guests at once" in outcome.out
    assert job.read_text().count("stonewall") == 4
    assert again.code == 1
    assert "--force replaces it" in again.err


def test_a_baseline_is_in_the_picture(run: Run, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(run("bench", str(tmp_path), *QUICK, "-j").out)
    words = ("bench", str(tmp_path), *QUICK, "--force", "--plot", str(tmp_path / "plot.svg"))

    assert run(*words).code == 0
    without = (tmp_path / "plot.svg").read_text()
    assert run(*words, "--baseline", str(before)).code == 0
    drawn = (tmp_path / "plot.svg").read_text()

    assert ("<!-- baseline -->" in without, "<!-- baseline -->" in drawn) == (False, True)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_drawn(run: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot.{suffix}"

    assert run("bench", str(tmp_path), *QUICK, "--plot", str(path)).code == 0

    assert path.stat().st_size > 1000


def test_a_plot_is_checked_before_the_work(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("dear")

    outcome = run("bench", str(tmp_path), *QUICK, "--plot", str(path))
    lost = run("bench", str(tmp_path), *QUICK, "--plot", str(tmp_path / "missing" / "plot.png"))

    assert (outcome.code, lost.code) == (1, 1)
    assert "--force replaces it" in outcome.err
    assert "folder does not exist" in lost.err
    assert outcome.out == lost.out == ""
    assert run("bench", str(tmp_path), *QUICK, "--plot", str(path), "--force").code == 0


def test_figures_outlive_a_plot_that_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **options: object) -> None:
        raise ImageIOError("no room", path="plot.png")

    monkeypatch.setattr("savefmt.bench.plot.draw", fail)

    outcome = run("bench", str(tmp_path), *QUICK, "-j", "--plot", str(tmp_path / "plot.png"))

    assert outcome.code == 1
    assert valid("bench", outcome.out)["bench"]["measurements"]
    assert "no room" in outcome.err


def test_without_matplotlib_the_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    outcome = run("bench", str(tmp_path), *QUICK, "--plot", str(tmp_path / "plot.png"))

    assert outcome.code == 1
    assert "bench --plot needs the package matplotlib, which is not installed" in outcome.err


def test_a_full_disk_is_refused(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", str(tmp_path), "--size", "1024T")

    assert outcome.code == 1
    assert "10 % of the disk must stay free; --fill allows more" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_too(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", str(tmp_path / "missing"), "-j")

    assert outcome.code == 1
    assert valid("bench", outcome.out)["error"]["errno"] == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--plot", "plot.gif"], "must end in one of them"),
        (["--size", "1K"], "--size must be 1M at least"),
        (["--repeat", "0"], "--repeat must be 1 to 1000"),
        (["--threads", "1,0"], "0 cannot be measured"),
        (["--engine", "steam"], "'steam' is not one of psync, io_uring"),
        (["--window", "3M"], "power of 2"),
        (["--window", "2K"], "power of 2 from 4K to 64M"),
        (["--jobs", "0"], "not a number of guests from 1 to 64"),
        (["--runtime", "99999"], "not a number of seconds from 0 to 86400"),
        (["--compare", "a", "b"], "or two reports to --compare"),
        (["--size", "1M", "--pattern", "some.save"], "which has its own"),
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, words: list[str], complaint: str) -> None:
    outcome = run("bench", str(tmp_path), *words)

    assert outcome.code == 64
    assert complaint in outcome.err


def test_an_image_has_its_own_size(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")

    outcome = run("bench", str(image), "--size", "1M")

    assert outcome.code == 64
    assert "an image is read as it is" in outcome.err
