"""prepare, clone and detach; and thin images under the commands that look at images."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import pytest
from cli.fakes import Run
from documents import valid
from golden import load
from loopdevices import loop_over

import savefmt
from savefmt.image import SaveImage
from savefmt.qemu import RestoreReport


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A sparse image of libvirt's, prepared."""
    image = load.unpack("libvirt-sparse", tmp_path)
    target = tmp_path / "base"
    savefmt.convert(image, target, layout=savefmt.Layout.MAPPED_RAM)
    return target


@pytest.fixture
def thin(base: Path, run: Run) -> Path:
    """A thin image for libvirt, of that."""
    assert run("clone", str(base), str(base.with_name("clones")), "--libvirt").code == 0
    (path,) = base.with_name("clones").iterdir()
    return path


def test_prepare_takes_any_form_and_aligns(tmp_path: Path, run: Run) -> None:
    image = load.unpack("libvirt-zstd", tmp_path)

    result = run("prepare", str(image), str(tmp_path / "out"), "--align=2M", "--verify")

    assert result.code == 0
    assert savefmt.compare(image, tmp_path / "out").same
    with SaveImage(tmp_path / "out") as prepared:
        assert {pages.offset % (2 << 20) for pages in prepared.mapped.pages} == {0}
    assert run("prepare", str(image), str(tmp_path / "odd"), "--align=3M").code == 1
    assert not (tmp_path / "odd").exists()


def test_a_qemu_of_the_users_own(base: Path, run: Run) -> None:
    folder, relative = base.with_name("clones"), os.path.relpath(base.with_name("a qemu"))

    run("clone", str(base), str(folder), "--qemu-binary", relative)
    printed = run("restore", str(base), "--print-command", "--qemu-binary", "./it's")

    assert f"exec '{os.path.abspath(relative)}'" in (folder / "clone-0.sh").read_text()
    assert "\n" + shlex.quote("./it's") + " \\\n" in printed.out
    wrong = run("clone", str(base), str(folder), "--libvirt", "--qemu-binary", "x")
    assert (wrong.code, "libvirt takes its emulator from the XML" in wrong.err) == (64, True)


def test_clone_for_qemu(base: Path, run: Run) -> None:
    folder = base.with_name("it's a folder")

    result = run("clone", str(base), str(folder), "--count", "2", "-j")

    valid("clone", result.out)
    names = sorted(os.listdir(folder))
    assert names == ["clone-0.sh", "clone-0.thin", "clone-1.sh", "clone-1.thin"]
    assert stat.S_IMODE((folder / "clone-0.sh").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "clone-0.thin").stat().st_mode) == 0o600
    words = shlex.split((folder / "clone-0.sh").read_text(), comments=True)
    (backend,) = [word for word in words if word.startswith("memory-backend-file")]
    assert f"mem-path={base}" in backend
    assert "share=off,readonly=on,rom=off" in backend
    assert "file:clone-0.thin" in words
    assert run("clone", str(base), str(folder)).code == 1
    assert run("clone", str(base), str(folder), "-F").code == 0


@pytest.mark.parametrize(
    "options",
    [("--name", "x"), ("--libvirt", "--count=0"), ("--libvirt", "--uuid", "x"), ("--count=5000",)],
)
def test_clone_refuses_what_makes_no_sense(options: tuple[str, ...], base: Path, run: Run) -> None:
    assert run("clone", str(base), str(base.with_name("clones")), *options).code == 64


def test_clone_for_libvirt_has_its_own_identity(base: Path, run: Run) -> None:
    uuid = "00112233-4455-6677-8899-aabbccddee00"
    folder = base.with_name("clones")

    result = run("clone", str(base), str(folder), "--libvirt", "--name", "a & b", "--uuid", uuid)

    assert result.code == 0
    with SaveImage(folder / "a___b.save") as image:
        assert image.domain is not None
        assert (image.domain.name, image.domain.uuid) == ("a & b", uuid)
        assert image.envelope is not None
        assert b"memory-backend=savefmt-pc.ram" in image.envelope.xml


def test_a_thin_image_is_read_with_the_memory_of_its_base(
    thin: Path, base: Path, run: Run, tmp_path: Path
) -> None:
    assert run("compare", str(thin), str(base)).code == 0
    assert run("check", "--full", str(thin)).code == run("check", "--full", str(base)).code == 0
    assert str(base) in run("info", str(thin)).out
    assert run("hash", str(thin)).out.split()[0] == run("hash", str(base)).out.split()[0]
    for name, image in (("one", thin), ("other", base)):
        assert run("export", str(image), str(tmp_path / name), "-f", "raw").code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("loss", ["gone", "changed", "touched", "another"])
def test_a_thin_image_without_its_base_says_so(
    loss: str, thin: Path, base: Path, run: Run, tmp_path: Path
) -> None:
    if loss == "gone":
        base.unlink()
    elif loss == "touched":
        os.utime(base, (1, 1))
    elif loss == "changed":
        with open(base, "ab") as file:
            file.write(b"x")
    else:
        base.write_bytes(load.unpack("libvirt-raw", tmp_path / "raw").read_bytes())

    for command in (("hash", str(thin)), ("export", str(thin), str(tmp_path / "core"))):
        result = run(*command)
        assert result.code == 1
        assert "base" in result.err
    checked = run("check", str(thin))
    assert checked.code == 2
    assert str(base) in checked.out
    assert run("info", str(thin)).code == 0


def test_a_base_is_neither_changed_nor_replaced(thin: Path, base: Path, run: Run) -> None:
    other = str(base.with_name("libvirt-sparse.save"))
    before = base.stat().st_mtime_ns
    for words in (
        ("xml", "set", str(base), "--running"),
        ("convert", str(base), str(base), "--save-version=3", "-F"),
        ("convert", other, str(base), "-F"),
        ("export", other, str(base), "-F"),
    ):
        result = run(*words)
        assert result.code == 1, words
        assert thin.name in result.err
    assert base.stat().st_mtime_ns == before

    thin.unlink()
    assert run("xml", "set", str(base), "--running").code == 0


def test_the_xml_of_a_thin_image_is_its_own(thin: Path, base: Path, run: Run) -> None:
    xml = run("xml", "dump", str(thin)).out
    assert "savefmt-pc.ram" in xml
    longer = thin.with_name("longer.xml")
    longer.write_text(xml.replace("</domain>", f"<!--{'x' * 9000}--></domain>"))

    assert run("xml", "set", str(thin), str(longer)).code == 0

    assert "xxx" in run("xml", "dump", str(thin)).out
    assert thin.stat().st_size < 1 << 20
    assert run("compare", str(thin), str(base)).code == 0


def test_detach_leaves_a_device_alone_that_is_made_of_the_base(
    thin: Path, base: Path, run: Run
) -> None:
    before = base.read_bytes()
    with loop_over(base) as device:
        result = run("detach", str(thin), str(device), "--force")
    assert (result.code, "which is read" in result.err) == (1, True)
    assert base.read_bytes() == before


def test_convert_leaves_thin_images_to_detach(thin: Path, base: Path, run: Run) -> None:
    out = base.with_name("out")
    refused = run("convert", str(thin), str(out), "-O", "raw")
    assert refused.code == 1
    assert "detach" in refused.err

    assert run("detach", str(thin), str(out), "--verify").code == 0

    assert savefmt.compare(out, base).same
    assert "savefmt" not in run("xml", "dump", str(out)).out
    assert run("detach", str(out), str(base.with_name("again"))).code == 1


def test_only_mapped_ram_images_can_be_run_on(tmp_path: Path, run: Run) -> None:
    image = load.unpack("libvirt-raw", tmp_path)

    for words in (
        ("restore", str(image), "--instant", "--print-command"),
        ("clone", str(image), "x"),
    ):
        result = run(*words)
        assert result.code == 1
        assert "savefmt prepare" in result.err


def test_the_command_maps_the_image(base: Path, run: Run) -> None:
    words = shlex.split(
        run("restore", str(base), "--instant", "--print-command").out, comments=True
    )

    with SaveImage(base) as image:
        pages = image.mapped.pages[0]
        length = image.head.blocks.blocks[0].used_length
    assert (
        f"memory-backend-file,id=pc.ram,size={length},mem-path={base},offset={pages.offset},"
        "share=off,readonly=on,rom=off"
    ) in words
    assert not any(word.startswith("memory-backend-ram") for word in words)


@pytest.mark.parametrize("options", [(), ("-n",)])
def test_clones_need_a_folder(options: tuple[str, ...], base: Path, run: Run) -> None:
    file = base.with_name("file")
    file.touch()

    outcome = run("clone", str(base), str(file), *options)

    assert outcome.code == 1
    assert f"{file}: this is no folder" in outcome.err


def test_a_record_replaces_no_other_file(base: Path, run: Run) -> None:
    note = base.with_name("note")
    note.write_text("do not lose this")

    outcome = run("restore", str(base), "--qmp=none", "--instant", "--record", str(note))

    assert outcome.code == 1
    assert f"{note}: this file holds something else and is left alone" in outcome.err
    assert note.read_text() == "do not lose this"


def test_a_guest_writes_into_a_copy_and_nothing_else(base: Path, tmp_path: Path, run: Run) -> None:
    data = bytearray(base.read_bytes())
    files = {name: tmp_path / name for name in ("copy", "note", "other", "pipe", "link")}
    files["note"].write_text("do not lose this")
    files["link"].hardlink_to(base)
    os.mkfifo(files["pipe"])
    data[-1] ^= 1  # a page, say
    files["copy"].write_bytes(data)
    data[base.read_bytes().index(b"<uuid>") + 6] ^= 1
    files["other"].write_bytes(data)

    words = ("restore", str(base), "--instant", "--print-command", "--writable-copy")
    said = {name: run(*words, str(file)) for name, file in (files | {"base": base}).items()}

    assert f"mem-path={files['copy']}" in said["copy"].out
    assert [name for name, outcome in said.items() if outcome.code == 0] == ["copy"]
    assert all("its own image" in said[name].err for name in ("base", "link"))
    assert all(
        "this is not a copy of the image" in said[name].err for name in ("note", "other", "pipe")
    )


def test_a_dry_run_makes_no_copy(base: Path, run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    words = ("restore", str(base), "--instant", "--print-command", "-n", "--writable-copy")

    assert f"mem-path={copy}" in run(*words, str(copy)).out
    assert not copy.exists()
    assert "its own image" in run(*words, str(base)).err


@pytest.mark.parametrize(
    "options",
    [
        ("--writable-copy", "x"),
        ("--instant", "--parallel=2"),
        ("--instant", "--bypass-cache"),
        ("--warm",),
        ("--order", "x"),
        ("--record", "x"),
        ("--instant", "--record", "x", "--warm"),
    ],
)
def test_options_that_exclude_each_other(options: tuple[str, ...], base: Path, run: Run) -> None:
    assert run("restore", str(base), "--qmp", "none", *options).code == 64


def test_compat_judges_the_thin_stream(thin: Path, run: Run) -> None:
    assert "mapped-ram came with" not in run("compat", str(thin), "--for", "qemu=8.2").out


@pytest.mark.parametrize("name", ["a\x01b", "a\nb"])
def test_names_that_no_xml_can_hold_are_refused(name: str, base: Path, run: Run) -> None:
    folder = str(base.with_name("clones"))

    result = run("clone", str(base), folder, "--libvirt", "--name", name)

    assert result.code == 1
    assert "cannot hold the name" in result.err


def test_a_base_with_an_odd_name(base: Path, run: Run) -> None:
    odd = base.with_name(os.fsdecode(b"it's, \xff\n$(x)"))
    base.rename(odd)
    folder = odd.with_name("clones")

    assert run("clone", str(odd), str(folder)).code == 0
    assert run("clone", str(odd), str(folder), "--libvirt").code == 1

    script = os.fsdecode((folder / "clone-0.sh").read_bytes())
    (backend,) = [w for w in shlex.split(script, comments=True) if w.startswith("memory-backend-")]
    assert f"mem-path={str(odd).replace(',', ',,')},offset=" in backend
    with SaveImage(folder / "clone-0.thin") as image:
        assert image.base is not None
        assert os.fsdecode(image.base.filename) == str(odd)


def test_the_command_restores_on_the_image(
    base: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []

    def restore(image: str, **options: object) -> RestoreReport:
        calls.append({"image": image, **options})
        return RestoreReport(
            image, "pc-q35-10.0", "mapped-ram", "raw", 0, False, "paused", 8, 0.5, ("note",), 4096
        )

    monkeypatch.setattr("savefmt.instant.restore_on_image", restore)
    words = ("restore", str(base), "--instant", "--qmp", "s", "--paused", "--warm", "-T", "3")

    result = run(*words)

    assert result.code == 0
    assert "4 KiB" in result.out
    valid("restore", run(*words, "-j").out)
    assert calls[0]["image"] == str(base)
    assert (calls[0]["qmp"], calls[0]["running"], calls[0]["warm"]) == ("s", False, True)
    assert calls[0]["copy"] is calls[0]["order"] is calls[0]["record"] is None
