"""The page about an image: what is on it, and what a hostile image cannot do to it."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import shlex
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builder import PAGE_SIZE, make_envelope, make_stream, page
from cli.fakes import Run
from cli.pages import Listener, browse, browser, read
from golden import load
from PIL import Image
from qcow2disk import Disk

from savefmt.cli.render import report as rendering
from savefmt.image import SaveImage
from savefmt.linux.facts import GuestReport, Process, Socket
from savefmt.scan.hashes import hash_memory
from savefmt.scan.results import SystemHint
from savefmt.scan.system import identify

HOSTILE_NAME = "\x1b[31m<script>document.title='owned'</script>"
HOSTILE_BLOCK = "\"><script>document.title='owned'</script>"


def hostile_xml(source: str) -> bytes:
    """Return a domain whose every text is an attack."""
    name = "&lt;script&gt;document.title='owned'&lt;/script&gt;&#x202e;"
    image = f"&lt;img src='{source}'&gt;"
    return f"""<domain type='qemu'><name>{name}{image}</name>
    <memory unit='KiB'>16</memory><vcpu>2</vcpu><cpu><model>{image}</model></cpu>
    <devices><emulator>{name}</emulator>
    <disk type='file' device='disk'><driver type='qcow2'/><source file="{image}"/>
    <target dev='vda'/></disk>
    <interface type='bridge'><source bridge="{image}"/><mac address='52:54:00:00:00:01'/>
    <model type='virtio'/></interface></devices></domain>""".encode()


def hostile_image(folder: Path, source: str = "http://127.0.0.1:9/x") -> Path:
    """Write an image that attacks whoever looks at it."""
    blocks = {"pc.ram": page(0) * 512 + bytes(PAGE_SIZE) * 1536, HOSTILE_BLOCK: page(7)}
    path = folder / "hostile.save"
    prefix = make_envelope(xml=hostile_xml(source))
    path.write_bytes(make_stream(prefix=prefix, blocks=blocks, machine=f"pc-{HOSTILE_NAME}"))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_on_the_page(folder: Path, run: Run) -> None:
    image = load.unpack("libvirt-devices", folder)
    outcome = run("report", str(image), "--for", "qemu=7.2.0")
    reader = read(folder / "libvirt-devices.save.report.html")

    assert outcome.code == 0
    assert outcome.out.startswith("wrote libvirt-devices.save.report.html: ")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    hashes = [
        line.split()[0] for line in run("hash", str(image)).out.splitlines() if line[0] != "#"
    ]
    registers = next(
        line
        for line in run("regs", str(image)).out.splitlines()
        if "EAX=" in line or "RAX=" in line
    )
    again = f"savefmt report {image} --for=qemu=7.2"
    for told in (digest, registers.split()[0], again, "pc-i440fx-9.2", "boot.img", "pc.ram"):
        assert told in reader.text
    assert hashes
    assert all(one in reader.text for one in hashes if re.fullmatch(r"[0-9a-f]{64}", one))
    assert reader.text.count("mapped-ram came with QEMU 9.0") == 1
    assert "libvirt 1.0" not in reader.text


def test_the_page_needs_nothing_else(folder: Path, run: Run) -> None:
    image = load.unpack("libvirt-zstd", folder)
    assert run("report", str(image), "-o", "page.html").code == 0
    tags = read(folder / "page.html").tags

    assert "script" not in {tag for tag, _ in tags}
    names = {name for _, attributes in tags for name in attributes}
    assert not any(name.startswith("on") for name in names)
    assert "style" not in names
    links = [v or "" for _, a in tags for name, v in a.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    policy = next(a["content"] or "" for t, a in tags if t == "meta" and "http-equiv" in a)
    style = (Path(rendering.__file__).parent / "report.css").read_text()
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{hashed}'" in policy


def test_a_large_picture_is_whole(folder: Path, run: Run) -> None:
    """Texts are cut at some length, pictures are not."""
    chance = random.Random(1)
    kinds = [bytes(range(1, 1 + (1 << bits))) * (PAGE_SIZE >> bits) for bits in range(8)]
    content = b"".join(chance.choices(kinds, k=10240))
    path = folder / "image"
    path.write_bytes(make_stream(layout="mapped-ram", blocks={"pc.ram": content}))
    run("report", str(path), "-o", "page.html")
    tags = read(folder / "page.html").tags
    link = next(attributes["href"] or "" for tag, attributes in tags if tag == "image")
    data = base64.b64decode(link.partition(",")[2], validate=True)

    assert len(link) > 4096
    picture = Image.open(BytesIO(data))
    assert picture.width * picture.height >= 10240
    picture.load()


def test_nothing_hostile_gets_out_of_its_text(folder: Path, run: Run) -> None:
    assert run("report", str(hostile_image(folder)), "-o", "page.html").code == 0
    reader = read(folder / "page.html")
    raw = (folder / "page.html").read_text(encoding="utf-8")

    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "img"}
    assert reader.text.count("<script>") > 5  # shown
    assert "\\u202e" in reader.text
    assert "\\x1b[31m" in reader.text
    assert all(c.isprintable() or c == "\n" for c in raw)


def test_what_is_missing_says_why(folder: Path, run: Run) -> None:
    whole = load.unpack("libvirt-raw", folder).read_bytes()
    Path("short.save").write_bytes(whole[: len(whole) // 2])
    outcome = run("report", "short.save", "-o", "page.html")
    reader = read(folder / "page.html")

    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if "stats" in line]
    assert line.startswith("  without ")
    assert ", hashes: " in line
    assert "DAMAGED" in reader.text
    assert "image.truncated" in reader.text
    reasons = re.findall("Not told: (.*)", reader.text)
    assert all(one != other for one, other in pairwise(reasons))  # each is said once
    assert len(reasons) + reader.text.count("Not told, for the same reason.") >= 4
    assert reader.text.count("Not told, for the same reason.") >= 2
    assert re.search(r"libvirt \d", reader.text)  # the rest is there


def test_quick_reads_no_memory(folder: Path, run: Run) -> None:
    image = load.unpack("q35-smp-mapped", folder)
    outcome = run("report", str(image), "--quick", "-o", "page.html")
    text = read(folder / "page.html").text

    assert outcome.code == 0
    assert text.count("memory was not read (--quick)") == 1
    assert text.count("Not told, for the same reason.") == 4
    assert "vCPU 1" in text
    assert "a bare QEMU stream has no domain XML" in text


def test_what_runs_in_the_guest(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guest calls itself is hostile, too."""
    image = load.unpack("libvirt-zstd", folder)
    assert run("report", str(image), "-o", "none.html").code == 0
    assert "docs/forensics.md" in read(folder / "none.html").text

    def answer(opened: SaveImage) -> GuestReport:
        values = dict.fromkeys(GuestReport.__match_args__)
        found = (process(1, "/sbin/init"), process(2, ""), process(600, HOSTILE_NAME, "-x"))
        more = {"processes": found, "sockets": (socket_of(600),), "findings": ()}
        return GuestReport(**{**values, "path": "", **more})  # type: ignore[arg-type]

    monkeypatch.setattr("savefmt.report.dossier.what_runs", answer)
    assert run("report", str(image), "-o", "page.html").code == 0
    reader = read(folder / "page.html")

    assert "2 processes, and 1 threads of the kernel" in reader.text
    assert f"{HOSTILE_NAME} -x".replace("\x1b", "\\x1b") in reader.text
    assert "10.0.0.1 4711" in reader.text
    assert "As the kernel's own lists say" in reader.text
    assert "script" not in {tag for tag, _ in reader.tags}


def process(pid: int, *words: str) -> Process:
    values: dict[str, Any] = dict.fromkeys(Process.__match_args__, 0)
    kernel = words == ("",)
    return Process(
        **{**values, "pid": pid, "name": "name", "command_line": words, "kernel": kernel}
    )


def socket_of(pid: int) -> Socket:
    values: dict[str, Any] = dict.fromkeys(Socket.__match_args__, "")
    told = {"pid": pid, "local": "10.0.0.1", "local_port": 4711, "state": "listening"}
    return Socket(**{**values, **told, "family": "inet"})


def test_what_is_no_image_leaves_no_page(folder: Path, run: Run) -> None:
    Path("text").write_text("hello" * 100)

    assert run("report", "text").code == 1
    assert [path.name for path in folder.iterdir()] == ["text"]
    assert run("report", "missing").code == 1
    assert [path.name for path in folder.iterdir()] == ["text"]


def test_an_image_that_changes_meanwhile_is_refused(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = load.unpack("libvirt-zstd", folder)

    def touching(image: SaveImage, **options: Any) -> SystemHint:
        path.touch()
        return identify(image, **options)

    monkeypatch.setattr("savefmt.report.dossier.identify", touching)
    outcome = run("report", str(path), "-o", "page.html")

    assert outcome.code == 1
    assert "the image changed while it was read" in outcome.err
    assert not Path("page.html").exists()


# --- in a real browser ---


@browser
def test_a_browser_runs_nothing_and_fetches_nothing(
    folder: Path, run: Run, listener: Listener
) -> None:
    url = f"http://127.0.0.1:{listener.port}/x"
    run("report", str(hostile_image(folder, url)), "-o", "page.html")
    page = folder / "page.html"
    attack = f"<img src='{url}'><script>document.title='owned'</script>"
    text = page.read_text(encoding="utf-8")
    # Should escaping ever fail, the policy still holds; without either the attack succeeds.
    (folder / "unescaped.html").write_text(text.replace("<main>", f"<main>{attack}"))
    (folder / "bare.html").write_text(f"<title>bare</title>{attack}")

    for name in ("page.html", "unescaped.html"):
        shown = browse(folder, folder / name, "--dump-dom")
        assert "<title>owned" not in shown
        assert 'id="made"' in shown
    assert listener.visits == 0
    assert "<title>owned" in browse(folder, folder / "bare.html", "--dump-dom")
    assert listener.visits > 0


@browser
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_shows_the_picture(folder: Path, run: Run, width: int) -> None:
    run("report", str(hostile_image(folder)), "-o", "page.html")
    reader = read(folder / "page.html")
    link = next(a["href"] or "" for tag, a in reader.tags if tag == "image")
    picture = Image.open(BytesIO(base64.b64decode(link.partition(",")[2]))).convert("RGB")
    wanted = {color: count for count, color in picture.getcolors(1 << 16) or []}
    zero = (16, 16, 24)
    other = max(wanted.keys() - {zero, (255, 255, 255)}, key=lambda color: wanted[color])
    browse(folder, folder / "page.html", f"--window-size={width},8000", "--screenshot=shot.png")
    shot = Image.open(folder / "shot.png").convert("RGB")
    seen = {color: count for count, color in shot.getcolors(1 << 24) or []}

    assert seen[zero] > 10_000
    ratio = wanted[zero] / wanted[other]
    assert seen[zero] / seen[other] == pytest.approx(ratio, rel=0.05)


def hashes_on(page: str) -> list[str]:
    return re.findall("[0-9a-f]{64}", read(Path(page)).text)


def hashes_in(image: str) -> list[str]:
    """Hash memory by the library: what `report` has of it."""
    with SaveImage(image) as opened:
        return [one.digest for one in hash_memory(opened)]


def test_an_image_that_is_part_of_a_file(folder: Path, run: Run) -> None:
    """Behind something, in a disk image, or with its memory beside it: as if it lay alone."""
    content = b"".join(page(number) for number in range(64))
    stream = make_stream(blocks={"pc.ram": content})
    without = make_stream(blocks={"pc.ram": content}, guest_addresses={"pc.ram": 0}, rounds=[[]])
    for name, data in (
        ("plain", stream),
        ("behind", bytes(4096) + stream),
        ("disk", Disk().build({"first": stream})),
        ("without", without),
        ("memory", content),
    ):
        Path(name).write_bytes(data)
    assert run("report", "plain").code == 0
    (whole,) = set(hashes_on("plain.report.html")) - set(hashes_in("plain"))
    assert whole == hashlib.sha256(stream).hexdigest()

    for options in (
        ["behind", "--offset=4096"],
        ["disk", "--snapshot=first"],
        ["disk:first"],
        ["without", "--shared=pc.ram=memory"],
    ):
        assert run("report", *options, "-o", "part.html", "-F").code == 0
        name = options[0].partition(":")[0]
        whole = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        assert set(hashes_on("part.html")) == {whole, *hashes_in("plain")}
        text = read(Path("part.html")).text
        again = next(line for line in text.splitlines() if f"savefmt report {name}" in line)
        assert all(option in again for option in options[1:])
        assert "--snapshot=first" in again or "first" not in options[-1]
        words = shlex.split(again[again.index("report") :])
        assert run(*words[:-1], "again.html", "-F").code == 0
        assert set(hashes_on("again.html")) == set(hashes_on("part.html"))
