"""Options that tell where in a file an image is, for one image or each of two."""

from __future__ import annotations

from pathlib import Path

import pytest
from builder import make_stream, page

from savefmt.cli.main import main

RAM = b"".join(page(number) for number in range(16))
JUNK = b"\x5a" * 4096
STREAM = make_stream(blocks={"pc.ram": RAM})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One guest, as it is, behind something, and with its memory beside it."""
    contents = {
        "plain": STREAM,
        "behind": JUNK + STREAM,
        "without": make_stream(blocks={"pc.ram": RAM}, guest_addresses={"pc.ram": 0}, rounds=[[]]),
        "memory": RAM,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("plain behind --b-offset 4K", 0),
        ("behind plain --a-offset 4K", 0),
        ("behind behind --offset 4K", 0),
        ("behind plain --offset 4K", 2),
        ("plain behind --offset 4K --b-offset 4K", 2),
        ("behind behind --offset 1K --b-offset 4K --a-offset 4K", 0),
        ("without plain --a-shared pc.ram=memory", 0),
        ("plain without --b-shared pc.ram=memory", 0),
        ("plain without", 1),
        ("plain plain --a-snapshot x", 2),
        ("plain plain --a-snapshot x --a-offset 5", 64),
    ],
)
def test_compare(words: str, code: int, files: dict[str, Path]) -> None:
    command = [str(files.get(word, word)) for word in words.split()]
    command = [word.replace("=memory", f"={files['memory']}") for word in command]
    assert main(["compare", "-q", *command]) == code


def test_case_notes_name_both_files(files: dict[str, Path], tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    shared = f"--shared=pc.ram={files['memory']}"
    assert main(["hash", str(files["without"]), shared, "--case-notes", str(notes)]) == 0
    assert str(files["without"]) in notes.read_text()
    assert str(files["memory"]) in notes.read_text()


def test_map_against_part_of_a_file(files: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    command = ["map", str(files["plain"]), "--png", str(tmp_path / "png")]
    against = ["--against", str(files["behind"])]
    assert main([*command, *against, "--against-offset", "4K"]) == 0
    assert main([*command, "-F", *against]) == 1
    assert main([*command, "-F", "--against-offset", "4K"]) == 64


def test_a_clone_needs_a_file_of_its_own(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """No option names anything else, and neither does a name."""
    for command in ("clone", "detach", "bench"):
        assert main([command, str(files["behind"]), "--offset", "4K"]) == 64
        assert "there is no option --offset" in capsys.readouterr().err
