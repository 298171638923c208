"""Where a target lies: links that are followed, and links that are not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from savefmt import ConversionError, ImageIOError
from savefmt.writing.output import OutputFile, check_target
from savefmt.writing.places import Place, exchange, rename_new

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")


def write(target: Path | str, data: bytes = b"new", *, overwrite: bool = True) -> None:
    with OutputFile(target, overwrite=overwrite) as output:
        output.file.write(data, 0)
        output.commit()


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder as /tmp is one."""
    folder = tmp_path / "public"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def strangers_link(public: Path, leads_to: Path | str) -> Path:
    link = public / "link"
    link.symlink_to(leads_to)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    return link


@as_root
@pytest.mark.parametrize("there", [True, False])
def test_a_strangers_link_in_a_sticky_folder_is_not_followed(
    there: bool, public: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    if there:
        victim.write_bytes(b"precious")
    link = strangers_link(public, victim)

    with pytest.raises(ConversionError, match="a symbolic link of somebody else"):
        write(link)
    with pytest.raises(ConversionError, match="a symbolic link of somebody else"):
        check_target(link, overwrite=True)

    assert victim.exists() == there
    assert not there or victim.read_bytes() == b"precious"


@as_root
def test_a_link_that_leads_to_a_strangers_link(public: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    own = tmp_path / "own"
    own.symlink_to(strangers_link(public, victim))

    with pytest.raises(ConversionError, match="a symbolic link of somebody else"):
        write(own)


@as_root
def test_links_that_the_kernel_follows(public: Path, tmp_path: Path) -> None:
    """Of the folder's owner, of the user's own, or in a folder that not all may write to."""
    settings: list[Callable[[], object]] = [
        lambda: None,
        lambda: os.chown(public / "link", 0, 0, follow_symlinks=False),
        lambda: os.chown(public, NOBODY, NOBODY),
        lambda: public.chmod(0o1775),
        lambda: public.chmod(0o777),
    ]
    for number, prepare in enumerate(settings):
        target = tmp_path / f"target{number}"
        (public / "link").unlink(missing_ok=True)
        os.chown(public, 0, 0)
        public.chmod(0o1777)
        if number == 0:
            (public / "link").symlink_to(target)
        else:
            strangers_link(public, target)
        prepare()

        write(public / "link")

        assert target.read_bytes() == b"new"
        assert (public / "link").is_symlink()


def test_a_link_may_change_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened counts: the rename replaces the name, and follows nothing."""
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_bytes(b"precious")
    with OutputFile(target, overwrite=True) as output:
        output.file.write(b"new", 0)
        target.symlink_to(victim)
        output.commit()

    assert victim.read_bytes() == b"precious"
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()


def test_a_folder_that_is_swapped_keeps_nothing(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    with OutputFile(folder / "target", overwrite=True) as output:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(other)
        output.commit()

    assert os.listdir(other) == []
    assert os.listdir(tmp_path / "moved") == ["target"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")

    with pytest.raises(ImageIOError) as caught:
        write(tmp_path / "one")

    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("link", ["sub/../sub/target", "{}/sub/target", "sub/./target"])
def test_links_lead_from_where_they_stand(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(link.format(tmp_path))
    monkeypatch.chdir("/")

    write(tmp_path / "link")

    assert (tmp_path / "sub" / "target").read_bytes() == b"new"


def test_a_name_alone_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    write("target")

    assert os.listdir(tmp_path) == ["target"]


def socket_at(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, socket_at])
@pytest.mark.parametrize("through", ["", "link"])
def test_what_is_no_file(make: Callable[[Path], None], through: str, tmp_path: Path) -> None:
    make(tmp_path / "thing")
    (tmp_path / "link").symlink_to("thing")

    with pytest.raises(ConversionError, match="not a regular file; use -"):
        check_target(tmp_path / (through or "thing"), overwrite=True)


@pytest.mark.parametrize(
    "target", ["/dev/stdout", "/dev/fd/1", "/dev/null", "/", ".", "..", "sub/"]
)
def test_places_without_a_name(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        with pytest.raises(ConversionError, match="not a regular file|root of all folders"):
            check_target(target, overwrite=True)
    finally:
        os.dup2(kept, 1)
        for fd in (reading, writing, kept):
            os.close(fd)


@pytest.fixture
def drop_box(tmp_path: Path) -> Iterator[Path]:
    """A folder that may be written and not be read, as an ordinary user sees it."""
    folder = tmp_path / "box"
    folder.mkdir()
    for above in tmp_path.parents:
        if above.stat().st_uid == os.geteuid() and "pytest" in str(above):
            above.chmod(0o755)
    tmp_path.chmod(0o755)
    folder.chmod(0o1733)
    old = os.geteuid()
    if old == 0:
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(old)
    folder.chmod(0o700)


def test_a_folder_that_cannot_be_read(drop_box: Path, tmp_path: Path) -> None:
    try:
        write(drop_box / "target")
    finally:
        os.seteuid(os.getuid())

    drop_box.chmod(0o700)
    assert os.listdir(drop_box) == ["target"]
    assert (drop_box / "target").read_bytes() == b"new"


def test_names_are_taken_and_exchanged(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    with Place.open(tmp_path / "one") as place:
        with pytest.raises(FileExistsError):
            rename_new("one", "two", place.folder)
        exchange("one", "two", place.folder)
        rename_new("one", "three", place.folder)
        with pytest.raises(FileNotFoundError):
            exchange("one", "two", place.folder)

    assert (tmp_path / "two").read_bytes() == b"1"
    assert (tmp_path / "three").read_bytes() == b"2"


ATTACKER = """
import os, sys
folder, victim = sys.argv[1:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
names = [f"{folder}/target{number}" for number in range(20)]
print("ready", flush=True)
while True:
    for name in names:
        for make in (lambda: os.symlink(victim, name), lambda: open(name, "x").close()):
            try:
                make()
                os.unlink(name)
            except OSError:
                pass
"""


@as_root
def test_a_stranger_who_races(public: Path, tmp_path: Path) -> None:
    """Root writes to names that a stranger makes links of; whatever wins, the victim is safe."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and "pytest" in str(above):
            above.chmod(0o755)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    before = victim.stat()
    words = [sys.executable, "-I", "-c", ATTACKER, str(public), str(victim)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        outcomes = set()
        try:
            for turn in range(200):
                try:
                    write(public / f"target{turn % 20}")
                    outcomes.add("written")
                except (ConversionError, ImageIOError):
                    outcomes.add("refused")
        finally:
            attacker.kill()

    assert "written" in outcomes
    after = victim.stat()
    assert victim.read_bytes() == b"precious"
    assert (after.st_ino, after.st_mode, after.st_uid) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
    )
