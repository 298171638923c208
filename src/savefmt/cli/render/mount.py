"""The files that ``savefmt mount`` shows besides memory: the output of other commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from savefmt.check import check
from savefmt.cli.render.damage import lost_lines
from savefmt.cli.render.devices import damaged_values, device_values
from savefmt.cli.render.document import document_text
from savefmt.cli.render.os import system_lines
from savefmt.cli.render.regs import registers_lines
from savefmt.errors import FormatError, SavefmtError
from savefmt.export.blocks import file_names
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.scan.system import identify

_BYTES_SHOWN = 1 << 20
"""Of an opaque field of a device: all but of the very largest."""


def texts(
    image: SaveImage,
    *,
    quick: bool,
    io: IOOptions,
    progress: OnProgress | None,
    left_out: Callable[[str, str], None],
) -> dict[str, bytes]:
    """Return files by their path in the mounted folder.

    Parameters
    ----------
    image : SaveImage
        Open.
    quick : bool
        Leave out what takes a look at all memory.
    io, progress
        For that look.
    left_out : callable
        Told the name of a file that cannot be, and why.

    Returns
    -------
    dict of str to bytes
        Texts and JSON documents.
    """
    found: dict[str, bytes] = {}
    if image.envelope is not None:
        found["domain.xml"] = image.envelope.xml
        if image.envelope.cookie is not None:
            found["cookie.xml"] = image.envelope.cookie

    if image.rescue is not None:
        found["lost.txt"] = "".join(lost_lines(image.rescue)).encode("utf-8", "surrogateescape")

    def add(name: str, make: Callable[[], Iterable[tuple[str, str]]]) -> None:
        try:
            found.update((path, f"{text}\n".encode()) for path, text in make())
        except SavefmtError as error:
            left_out(name, error.message)

    add("info.json", lambda: [("info.json", document_text(images=[image.summary()]))])
    add("check.json", lambda: [("check.json", document_text(reports=[check(image.path, io=io)]))])
    add("devices", lambda: _devices(image))
    add("cpus", lambda: _cpus(image))
    if not quick:
        add("os.txt", lambda: [("os.txt", _system(image, io, progress))])
    return found


def _devices(image: SaveImage) -> Iterator[tuple[str, str]]:
    devices = image.devices
    sections = devices.sections
    names = file_names([f"{s.idstr}-{s.instance_id}" for s in sections], ".json")
    for name, section in zip(names, sections, strict=True):
        try:
            tree = devices.tree(section)
            shown = device_values(section, tree, devices.described(section), _BYTES_SHOWN)
        except FormatError as error:
            shown = damaged_values(section, error)  # type: ignore[assignment]
        text = document_text(devices=[shown], incomplete=devices.incomplete)
        yield f"devices/{name}", text


def _cpus(image: SaveImage) -> Iterator[tuple[str, str]]:
    for number, registers in enumerate(image.guest.cpus):
        yield f"cpus/{number}.txt", "\n".join(registers_lines(registers))


def _system(image: SaveImage, io: IOOptions, progress: OnProgress | None) -> str:
    return "\n".join(system_lines(identify(image, io=io, progress=progress)))
