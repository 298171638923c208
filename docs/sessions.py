"""Sessions in the documentation: run the commands of a page, and hold its text against them.

A page that has ``<!-- session -->`` in it is one session: the commands of its ``console``
blocks are run in turn, in an empty folder with `guest.save`, the image that `make demo` has,
too.  A line ``...`` stands for any lines.  ``python docs/sessions.py`` writes the output of
blocks without such a line anew; a test wants every page as it is.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = (DOCS / "tutorial.md", DOCS.parent / "README.md")
DRAWN = (
    "savefmt info guest.save | head -8",
    "savefmt check --full guest.save",
    "savefmt convert guest.save guest.sparse -O sparse --verify",
    "savefmt compat guest.sparse --for libvirt=12.8 --for libvirt=10.4 --for qemu=11.0",
    "savefmt memmap guest.sparse",
    "savefmt search guest.sparse SAFE",
)
GOLDEN = "libvirt-raw"
# What differs from run to run and from one file system to the next.
_VARYING = re.compile(r"in [\d.]+ s \(.*?\)|[\d.]+ \w+( \(\d+ bytes\))? on disk")
# What differs from one release of a compressor to the next.
_PACKED = re.compile(r"(codec (?!raw)\w+, save version \d\n.*\n  to )[\d.]+ \w+ \(\d+ bytes\)")
_SESSION = re.compile(r"<!-- session -->\n+```console\n(.*?)```", re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a block, each with the lines below it."""
    for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
        if part.strip():
            first, *rest = part.rstrip("\n").split("\n")
            yield first.removeprefix("$ "), rest


def run(command: str, folder: Path) -> list[str]:
    """Run a command as a user would; return what it prints, errors too."""
    program = f"{sys.executable} -m savefmt"
    done = subprocess.run(
        ["sh", "-c", f'savefmt() {{ {program} "$@"; }}\n{command}'],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.rstrip("\n").split("\n") if done.stdout else []


def fits(shown: list[str], printed: list[str]) -> bool:
    """Whether what a page shows is what was printed; ``...`` is any number of lines."""
    lines = _steady(shown).splitlines()
    pattern = "".join(".*" if line == "..." else f"{re.escape(line)}\n" for line in lines)
    return re.fullmatch(pattern, _steady(printed), re.DOTALL) is not None


def _steady(lines: list[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    return _PACKED.sub(r"\1*", _VARYING.sub("*", text))


def renewed(page: str, folder: Path) -> str:
    """Return a page with the output of its sessions as it is today."""

    def again(found: re.Match[str]) -> str:
        text = ""
        for command, shown in commands(found[1]):
            printed = run(command.partition("   #")[0], folder)
            lines = shown if fits(shown, printed) else printed
            text += "".join(f"{line}\n" for line in (f"$ {command}", *lines))
        return found[0].replace(found[1], text)

    return _SESSION.sub(again, page)


def prepare(folder: Path) -> None:
    """Put `guest.save` into a folder."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from golden.load import unpack

    unpack(GOLDEN, folder).rename(folder / "guest.save")


def draw(folder: Path, picture: Path) -> None:
    """Draw a session as a terminal shows it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    for command in DRAWN:
        console.print(Text("$ ", "bold green") + Text(command, "bold"))
        console.print(Text("\n".join(run(command, folder))), soft_wrap=True)
    svg = console.export_svg(title="savefmt", unique_id="savefmt")
    # Rich would have the reader's browser fetch a font.
    picture.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        draw(Path(name), DOCS / "session.svg")
    for page in PAGES:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name))
            page.write_text(renewed(page.read_text(), Path(name)))
