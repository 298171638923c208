"""What `savefmt.bench` makes of its figures: advice, comparisons, pictures."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from golden.load import unpack

import savefmt
from savefmt.bench import bench, compare_reports
from savefmt.bench.advise import advise
from savefmt.bench.baseline import compare_with, load_baseline
from savefmt.bench.plot import draw
from savefmt.bench.values import BenchOptions, BenchReport, Measurement, Spread, Subject
from savefmt.cli.main import main
from savefmt.errors import ConversionError, FormatError, ImageIOError
from savefmt.model import Layout

MIB = 1 << 20
SMALL = BenchOptions(length=4 * MIB, threads=(1, 2), windows=(MIB,), direct=(False,), repeat=1)


def measured(
    work: str, *mib: float, direct: bool = True, threads: int = 1, window: int = MIB
) -> Measurement:
    runs = tuple(rate * MIB for rate in mib)
    return Measurement(work, direct, threads, window, "psync", MIB, Spread.of(runs), runs, 0.5)


# Advice.


def test_the_least_effort_close_to_the_best_is_chosen() -> None:
    rates = [
        measured("write", 1000, threads=4),
        measured("write", 960, threads=2),
        measured("write", 900, threads=1),
        measured("write", 990, threads=1, direct=False),
        measured("stream", 500),
    ]

    advice = advise(rates, Subject("/mnt"))

    assert (advice.direct, advice.threads, advice.window) == (True, 2, MIB)
    assert "960 MiB/s, close to the best (1000 MiB/s with direct I/O, 4 threads" in advice.reason
    assert "pages are 1.92 times as fast" in advice.reason
    assert advice.commands == (
        "virsh save DOMAIN FILE --image-format sparse --parallel-channels 2 --bypass-cache",
        "savefmt convert SRC DST -O sparse -T 2 --direct --window 1M --engine psync",
    )


def test_a_stream_as_fast_is_said_to_be() -> None:
    advice = advise([measured("write", 500), measured("stream", 500)], Subject("/mnt"))

    assert "so raw saves as fast here" in advice.reason


def test_an_image_s_name_is_quoted_in_the_advice() -> None:
    advice = advise([measured("read", 500, direct=False)], Subject("/mnt/my image", True))

    assert advice.commands[0] == "virsh restore '/mnt/my image' --parallel-channels 1"


def test_an_image_s_name_is_no_option() -> None:
    advice = advise([measured("read", 500)], Subject("-f", True, mapped=False))

    assert advice.commands == (
        "virsh restore ./-f --bypass-cache",
        "savefmt convert ./-f DST -O sparse -T 1 --direct --window 1M --engine psync",
    )


def test_a_restore_past_the_cache_does_not_lead_to_a_save_that_kills() -> None:
    """Direct I/O stays set in the QEMU of a guest that came from a sparse image."""
    advice = advise([measured("read", 500)], Subject("image", True))

    restore, cure, _ = advice.commands
    assert restore == "virsh restore image --parallel-channels 1 --bypass-cache"
    virsh, verb, guest, words = shlex.split(cure)
    assert (virsh, verb, guest) == ("virsh", "qemu-monitor-command", "GUEST")
    assert json.loads(words)["arguments"] == {"direct-io": False}
    assert "the guest dies in its next sparse save without --bypass-cache" in advice.reason
    for harmless in (
        advise([measured("read", 500)], Subject("image", True, mapped=False)),
        advise([measured("read", 500, direct=False)], Subject("image", True)),
        advise([measured("write", 500)], Subject("/mnt")),
    ):
        assert "qemu-monitor-command" not in " ".join(harmless.commands)
        assert "dies" not in harmless.reason


def test_virsh_cannot_restore_a_bare_stream() -> None:
    (command,) = advise([measured("read", 500)], Subject("image", True, True, False)).commands

    assert command.startswith("savefmt convert image DST -O raw ")


def test_channels_are_judged_by_what_is_most_like_them() -> None:
    rates = [
        measured("write", 500, threads=1),
        measured("write", 900, threads=4),
        measured("write", 1000, threads=1, window=8 * MIB),
        measured("write", 1000, threads=4, window=8 * MIB),
    ]

    advice = advise(rates, Subject("/mnt"))

    assert (advice.threads, advice.window) == (1, 8 * MIB)
    assert "For virsh 4 channels are better" in advice.reason
    assert "--parallel-channels 4 " in advice.commands[0]
    assert " -T 1 " in advice.commands[1]


def test_a_gain_within_the_noise_is_none() -> None:
    noisy = [
        measured("write", 700, 900, 1300, threads=1),
        measured("write", 800, 1200, 1250, threads=4),
    ]
    steady = [
        measured("write", 890, 900, 910, threads=1),
        measured("write", 1190, 1200, 1210, threads=4),
    ]

    unsure, sure = advise(noisy, Subject("/mnt")), advise(steady, Subject("/mnt"))

    assert (unsure.threads, sure.threads) == (1, 4)
    assert "ahead by no more than its runs differ" in unsure.reason
    assert "--repeat" in unsure.reason
    assert "--repeat" not in sure.reason


def test_small_windows_are_for_looking_not_for_choosing() -> None:
    rates = [measured("write", 900, window=4096), measured("write", 500, threads=2)]

    advice = advise(rates, Subject("/mnt"))
    alone = advise(rates[:1], Subject("/mnt"))

    assert (advice.threads, advice.window) == (2, MIB)
    assert "windows of 4 KiB" in alone.reason
    assert alone.commands[1] == "savefmt convert SRC DST -O sparse -T 1 --direct --engine psync"


# Baselines and plots.


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("savefmt.bench.record.fio_version", lambda: None)
        return bench(tmp_path_factory.mktemp("disk"), replace(SMALL, direct=(True, False)))


def test_a_baseline_is_an_earlier_report(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps({"schema": 1, "bench": asdict(report)}))

    baseline = load_baseline(path)
    faster = replace(
        report.measurements[0], rate=Spread(0, 2 * report.measurements[0].rate.median, 0)
    )
    new, larger = replace(faster, threads=64), replace(faster, length=2 * faster.length)
    compared = compare_with(baseline, replace(report, measurements=(faster, new, larger)))

    assert [m.baseline_ratio for m in compared.measurements] == [2, None, None]
    assert compared.notes == report.notes


def test_two_reports_are_compared(report: BenchReport, tmp_path: Path) -> None:
    first, second = report.measurements[:2]
    slow = replace(first, rate=Spread(1, 2, 3), latency=None)
    near = replace(second, rate=Spread(second.rate.minimum, 5, second.rate.maximum))
    other = replace(report.facts, kernel="6.1.0")
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps({"bench": asdict(report)}))
    changed = replace(report, measurements=(slow, near), facts=other)
    b.write_text(json.dumps({"bench": asdict(changed)}))

    comparison = compare_reports(a, b)

    assert [s.ratio for s in comparison.settings] == [
        2 / first.rate.median,
        5 / second.rate.median,
    ]
    assert [s.apart for s in comparison.settings] == [True, False]
    assert comparison.settings[0].p99_before == first.latency.p99  # type: ignore[union-attr]
    assert comparison.settings[0].p99_after is None
    assert comparison.differences == (f"kernel {report.facts.kernel} and 6.1.0",)
    assert comparison.only_before == len(report.measurements) - 2
    assert comparison.only_after == 0


def test_what_else_differs_from_the_baseline_is_said(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    facts = replace(report.facts, kernel="6.1.0", date="long ago")
    path.write_text(json.dumps({"bench": asdict(replace(report, facts=facts))}))

    compared = compare_with(
        load_baseline(path),
        replace(report, measurements=(replace(report.measurements[0], threads=9),)),
    )

    assert compared.notes[-2:] == (
        "the baseline has no run with these settings and the same number of bytes",
        "the baseline was measured with another kernel 6.1.0",
    )


@pytest.mark.parametrize("median", [0, -1, "1e3", "5", 1e-320, [1], None, math.nan, math.inf, 1e99])
def test_a_baseline_of_impossible_rates_is_none(
    report: BenchReport, tmp_path: Path, median: object
) -> None:
    document = {"bench": asdict(report)}
    document["bench"]["measurements"][0]["rate"]["median"] = median
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document))

    with pytest.raises(FormatError, match="not what"):
        load_baseline(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100000,
        '{"bench": {"measurements": [{"work": "read"}]}}',
        '{"bench": {"measurements": {"a": 1}, "path": "", "options": [], "facts": 1}}',
    ],
)
def test_other_files_are_no_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(text)

    with pytest.raises(FormatError, match="not what") as caught:
        load_baseline(path)
    assert caught.value.path == path


def test_a_missing_baseline_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        load_baseline(tmp_path / "missing")


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plots(report: BenchReport, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"plot.{suffix}"
    ceiling = Spread(1e9, 1e9, 1e9)
    shown = replace(
        report, measurements=tuple(replace(m, fio_rate=ceiling) for m in report.measurements)
    )

    draw(shown, path)

    content = path.read_bytes()
    assert content.startswith(magic)
    if suffix == "svg":
        for label in (b"fio: best bw", b"1 MiB, direct", b"1 MiB, buffered", b"one stream, direct"):
            assert label in content


@pytest.mark.parametrize("name", ["/$x^$_a{", "/\udcff\x1b\n", "/" + 300 * "long/"])
def test_a_plot_s_title_may_be_anything(report: BenchReport, tmp_path: Path, name: str) -> None:
    draw(replace(report, path=name), tmp_path / "plot.svg")

    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")


def test_an_older_picture_is_kept_unless_told(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("dear")

    with pytest.raises(ConversionError, match="exists"):
        draw(report, path)
    assert path.read_text() == "dear"
    draw(report, path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_a_plot_that_cannot_be_written(report: BenchReport, tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        draw(report, tmp_path / "missing" / "plot.png")


@pytest.mark.parametrize(
    ("golden", "layout"),
    [
        ("libvirt-sparse", Layout.SEQUENTIAL),
        ("libvirt-raw", Layout.MAPPED_RAM),
        ("libvirt-gzip", Layout.MAPPED_RAM),
    ],
)
def test_the_advice_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: str, layout: Layout
) -> None:
    image = unpack(golden, tmp_path)
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: None)
    monkeypatch.chdir(tmp_path)

    virsh, convert = bench(image.name, replace(SMALL, threads=(1,))).advice.commands

    assert ("--parallel-channels" in virsh) == (golden == "libvirt-sparse")
    program, *words = shlex.split(convert)
    assert program == "savefmt"
    assert main(words) == 0
    assert savefmt.probe("DST").layout is layout
