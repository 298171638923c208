"""Rules from several files and folders, with variables of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from savefmt.errors import SavefmtError
from savefmt.scan.yara import compile_rules

yara_x = pytest.importorskip("yara_x")


def rule(name: str, word: str, condition: str = "$a") -> str:
    """Write a rule."""
    return f'rule {name} {{ strings: $a = "{word}" condition: {condition} }}'


def matching(rules: object, data: bytes) -> list[str]:
    """Return the names of the rules that hold."""
    found = yara_x.Scanner(rules).scan(data).matching_rules
    return sorted(one.identifier for one in found)


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "one.yar").write_text(rule("first", "abc"))
    folder = tmp_path / "folder" / "below"
    folder.mkdir(parents=True)
    (folder / "two.yara").write_text(rule("second", "def"))
    (folder.parent / "three.yar").write_text(rule("first", "ghi"))
    (folder / "notes.txt").write_text("no rules at all {")

    rules = compile_rules(tmp_path / "one.yar", tmp_path / "folder")

    assert matching(rules, b"..abc..def..ghi") == ["first", "first", "second"]
    assert matching(rules, b"..ghi") == ["first"]


def test_variables(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text(rule("r", "abc", 'on and count > 2 and part > 1.5 and name == "x y" and $a'))
    right = {"on": "true", "count": "3", "part": "1.75", "name": "x y"}

    assert matching(compile_rules(path, variables=right), b"abc") == ["r"]
    assert matching(compile_rules(path, variables={**right, "on": "false"}), b"abc") == []
    with pytest.raises(ValueError, match="count"):
        compile_rules(path, variables={"on": "true", "part": "1.5", "name": ""})


def test_a_folder_without_rules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a file of rules"):
        compile_rules(tmp_path)
    with pytest.raises(SavefmtError):
        compile_rules(tmp_path / "missing")
