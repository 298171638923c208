"""Only `writing` makes, names, changes and removes files: the rest of the package cannot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "savefmt"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Calls of the standard library that change what a name stands for, or make a name.
BY_NAME = re.compile(
    r"os\.(l?ch(mod|own)|fch(mod|own)|link|symlink|unlink|remove|renames?|replace|mkdir|makedirs"
    r"|rmdir|removedirs|truncate|mkfifo|mknod|setxattr|removexattr|utime)"
    r"|shutil\.(copy.*|move|rmtree|chown)"
    r"|tempfile\.(NamedTemporaryFile|mk.*temp|mktemp|TemporaryDirectory)"
)
OF_PATH = re.compile(
    r"write_(bytes|text)|touch|unlink|rename|replace|l?chmod|mkdir|rmdir|(hard|sym)link_to"
)
WRITES = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"}

ALLOWED = {
    ("cli/editor.py", "tempfile.NamedTemporaryFile"): "the user's text, in the user's own TMPDIR",
    ("cli/commands/xml.py", "unlink"): "the same text",
    ("cli/main.py", "os.open"): "/dev/null",
    ("cli/commands/mount.py", "os.open"): "/dev/null",
    ("mount/serving.py", "open"): "a setting of the kernel for our own mount, in /sys",
    ("fleet/journal.py", "os.open"): "a journal, new or the user's own, to which lines are added",
    ("fleet/verbs.py", "os.makedirs"): "the folders for conversions, which the user named",
    ("instant/cloning.py", "os.makedirs"): "the folder for clones, which its user named",
    ("linux/bare.py", "open"): "a descriptor that memfd_create gave",
    ("cli/streams.py", "enumerate"): "how the standard streams are to be open",
    ("cli/streams.py", "os.open"): "/dev/null, in the place of a standard stream that is closed",
    ("plugins/volatility/save_image.py", "shutil.rmtree"): "multiprocessing's own temporary folder",
    ("qemu/imagetarget.py", "opened"): "a pipe or a device, which is written where it stands",
    ("qemu/saving.py", "file_in_set"): "a descriptor of ours, by /proc/self/fd",
    ("qemu/descriptors.py", "os.open"): "with the flags of its callers, which stand here",
}


def name_of(node: ast.expr) -> str:
    """Return the dotted name of what is called; only its last part where it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return ""


def names_in(node: ast.AST) -> set[str]:
    return {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def suspicious(call: ast.Call) -> str | None:
    """Return the name of a call that may write by name."""
    name = name_of(call.func)
    module, _, last = name.rpartition(".")
    given = [*call.args, *(word.value for word in call.keywords)]
    if BY_NAME.fullmatch(name):
        return name
    if any(names_in(part) & WRITES for part in given if not isinstance(part, ast.Call)):
        return name  # flags on their way to an open()
    if name == "os.open":
        return None if names_in(call.args[1]) & {"O_RDONLY", "O_PATH"} else name
    if last == "open":
        modes = [part.value for part in given if isinstance(part, ast.Constant)]
        return name if any(re.fullmatch(r"[rbt]?[wax+].*", str(mode)) for mode in modes) else None
    if module not in ("os", "shutil", "") and OF_PATH.fullmatch(last) and not is_text(call, last):
        return last
    return None


def is_text(call: ast.Call, last: str) -> bool:
    """Whether it is str.replace(old, new) rather than Path.replace(target)."""
    return last == "replace" and len(call.args) != 1


def writers() -> Iterator[tuple[str, str, int]]:
    for path in MODULES:
        here = str(path.relative_to(PACKAGE))
        if here.startswith("writing/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name := suspicious(node)) is not None:
                yield here, name, node.lineno


def test_nothing_else_writes_by_name() -> None:
    found = [entry for entry in writers() if entry[:2] not in ALLOWED]

    assert found == []


def test_every_exception_is_needed() -> None:
    found = {entry[:2] for entry in writers()}

    assert set(ALLOWED) <= found


KEEPS_NOTES = {
    "compat/keptstate.py": "what a QEMU said, kept for the next time that it is asked",
    "export/blocks.py": "files in a folder, which is synced once, with the last",
    "writing/cachefolder.py": "a key that nobody asked for, made anew where it is missing",
}


def test_what_fails_after_a_name_is_given_is_told() -> None:
    silent = set()
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if ".commit()" in text and ".notes" not in text:
            silent.add(str(path.relative_to(PACKAGE)))

    assert silent == set(KEEPS_NOTES)


@pytest.mark.parametrize(
    "code",
    [
        "os.rename(a, b)",
        "os.open(a, os.O_RDWR | os.O_CLOEXEC)",
        "os.open(a, flags)",
        "open(a, 'wb')",
        "path.open(mode='a')",
        "path.write_bytes(b'')",
        "path.replace(other)",
        "os.chmod(a, 0o600)",
        "tempfile.NamedTemporaryFile()",
        "shutil.rmtree(a)",
        "opened(name, os.O_WRONLY)",
    ],
)
def test_the_check_sees(code: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))

    assert suspicious(call) is not None


@pytest.mark.parametrize(
    "code",
    [
        "os.open(a, os.O_RDONLY | os.O_CLOEXEC)",
        "open(a, 'rb')",
        "path.open('rb')",
        "savefmt.open(image)",
        "text.replace('a', 'b')",
        "replace(report, changes=())",
        "tempfile.TemporaryFile()",
    ],
)
def test_the_check_lets_pass(code: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))

    assert suspicious(call) is None
