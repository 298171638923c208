"""The page about a run: what is on it, and what hostile images cannot do to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.fakes import Run
from cli.pages import Listener, browse, browser, read

from savefmt.errors import ConversionError
from savefmt.fleet import overview
from savefmt.fleet.overview import survey
from savefmt.fleet.records import FleetRecord, Outcome

ATTACK = "<script>document.title='owned'</script>"


def record(number: int, verdict: Outcome = Outcome.GOOD, **changed: Any) -> FleetRecord:
    """Return a line about an image."""
    values = {
        "version": "1.0",
        "verb": "audit",
        "options": {"readers": ["qemu=11.1"]},
        "host": f"host-{number % 3}",
        "path": f"/saves/{number}.save",
        "local": True,
        "identity": (number, 1, 1),
        "verdict": verdict,
        "reasons": (),
        "remedy": (),
        "domain": f"guest-{number}",
        "machine": "pc-q35-9.2",
        "seconds": float(number),
        "tries": 1,
        "result": {"hits": ["x" * 100]},
    }
    return FleetRecord(**{**values, **changed})


def written(folder: Path, *records: FleetRecord) -> Path:
    journal = folder / "run.jsonl"
    journal.write_text("".join(f"{one.line()}\n" for one in records))
    return journal


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mixed() -> Iterator[FleetRecord]:
    for number in range(9):
        yield record(number)
    for number in (9, 10):
        yield record(number, Outcome.REFUSED, reasons=("too new",), remedy=("convert -O raw",))
    yield record(11, Outcome.FAILED, reasons=("it took longer than 3 s",), machine="")
    yield record(0, Outcome.DAMAGED, reasons=("cut short",))  # it changed meanwhile


def test_what_a_run_says(folder: Path) -> None:
    found = survey(written(folder, *mixed()))

    assert found.total == 12
    assert dict(found.verdicts) == {
        Outcome.GOOD: 8,
        Outcome.REFUSED: 2,
        Outcome.DAMAGED: 1,
        Outcome.FAILED: 1,
    }
    assert found.remedies == (("convert -O raw", 2),)
    assert found.reasons[0] == ("too new", 2)
    assert [(share.name, share.counts) for share in found.machines] == [
        ("pc-q35-9.2", (8, 2, 1, 0)),
        ("unknown", (0, 0, 0, 1)),
    ]
    assert [share.name for share in found.hosts] == ["host-0", "host-1", "host-2"]
    assert found.asked == (("audit", '{"readers": ["qemu=11.1"]}', "1.0", 12),)
    assert found.seconds == sum(range(12))
    assert [one.path for one in found.shown[:4]] == [f"/saves/{n}.save" for n in (11, 0, 10, 9)]
    assert {one.result for one in found.shown} == {None}


def test_a_page_stays_one_that_opens(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "SHOWN", 5)
    journal = written(folder, *mixed())
    outcome = run("fleet", "report", str(journal))
    text = read(folder / "run.html").text

    assert "with the gravest 5 of 12 images" in outcome.out
    assert "7 more are in the journal" in text
    assert "/saves/11.save" in text
    assert "/saves/5.save" not in text


def test_what_is_on_the_page(folder: Path, run: Run) -> None:
    journal = written(folder, *mixed())
    assert run("fleet", "report", str(journal), "-o", "page.html").code == 0
    reader = read(folder / "page.html")

    for told in ("4 images to look at", "convert -O raw", "66.7 %", "guest-11", "cut short"):
        assert told in reader.text
    assert f"savefmt fleet report {journal} -o page.html" in reader.text
    assert survey(journal).digest in reader.text
    assert run("fleet", "report", str(journal), "-o", "page.html").code == 1
    assert run("fleet", "report", str(journal), "-o", "page.html", "-F").code == 0
    assert (folder / "page.html").stat().st_mode & 0o777 == 0o600


def test_a_run_without_images_has_a_page_and_no_journal_none(folder: Path, run: Run) -> None:
    written(folder)
    assert run("fleet", "report", "run.jsonl").code == 0
    assert "0 images" in read(folder / "run.html").text
    Path("other.jsonl").write_text('{"schema": 1}\n')
    assert run("fleet", "report", "other.jsonl").code == 1
    assert run("fleet", "report", "missing.jsonl").code == 1
    assert not Path("other.html").exists()


def test_a_journal_that_grows_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = written(folder, *mixed())

    def growing(path: Path) -> Iterator[FleetRecord]:
        yield record(1)
        with journal.open("a") as file:
            file.write(f"{record(2).line()}\n")

    monkeypatch.setattr(overview, "read_journal", growing)
    with pytest.raises(ConversionError, match="the journal grew"):
        survey(journal)


def hostile(folder: Path, url: str) -> Path:
    """Write a journal whose every text is an attack."""
    attack = f"\x1b[31m\u202e{ATTACK}<img src='{url}'>\"'"
    fields = dict.fromkeys(("host", "path", "domain", "machine", "version", "verb"), attack)
    lists = {"reasons": (attack,), "remedy": (attack,), "options": {attack: attack}}
    return written(folder, record(1, Outcome.DAMAGED, **fields, **lists), record(2))


def test_nothing_hostile_gets_out_of_its_text(folder: Path, run: Run) -> None:
    assert run("fleet", "report", str(hostile(folder, "http://127.0.0.1:9/x"))).code == 0
    reader = read(folder / "run.html")
    raw = (folder / "run.html").read_text()

    tags = [tag for tag, _ in reader.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert reader.text.count(ATTACK) > 8
    assert "\\x1b[31m\\u202e" in reader.text
    assert all(c.isprintable() or c == "\n" for c in raw)


@browser
def test_a_browser_sorts_and_runs_nothing_else(folder: Path, run: Run, listener: Listener) -> None:
    url = f"http://127.0.0.1:{listener.port}/x"
    run("fleet", "report", str(hostile(folder, url)), "-o", "page.html")
    text = (folder / "page.html").read_text()
    # Should escaping ever fail, the policy still holds.
    attack = f"<img src='{url}'>{ATTACK}"
    (folder / "bad.html").write_text(text.replace("<main>", f"<main>{attack}"))
    assert "<title>owned" not in browse(folder, folder / "bad.html", "--dump-dom")
    assert listener.visits == 0

    (folder / "run.html").unlink(missing_ok=True)
    assert run("fleet", "report", str(written(folder, *mixed()))).code == 0
    shown = browse(folder, folder / "run.html", "--dump-dom", fragment="by-seconds")
    body = shown[shown.index('id="by-tries"') :]
    places = [body.index(f"/saves/{number}.save") for number in range(12)]
    assert places == sorted(places)
    assert 'aria-sort="ascending"' in shown


def test_documents_of_the_page(folder: Path, run: Run) -> None:
    told = json.loads(run("fleet", "report", str(written(folder, *mixed())), "-j").out)["report"]

    assert (told["images"], told["shown"], told["target"]) == (12, 12, "run.html")
    assert told["target_length"] == Path("run.html").stat().st_size
