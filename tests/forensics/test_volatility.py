"""volatility3 finds in save images what it finds in QEMU's own dumps of the same guests."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from mounting import lack, mounted

from forensics import workload
from forensics.conftest import FORMS, Export, Saved, Volatility

pytestmark = pytest.mark.forensics

Vol = Callable[..., str]


@pytest.fixture(scope="session")
def vol(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Vol:
    """Runs volatility3, with symbols that pakunoda takes from the export of one guest."""
    volatility = Volatility(tmp_path_factory.mktemp("volatility"))
    volatility.take_symbols(export("zstd", "--format", "elf"))
    return cache(volatility.run)


@pytest.mark.parametrize("form", FORMS)
def test_tasks(form: str, vol: Vol, guests: dict[str, tuple[Path, Saved]]) -> None:
    image, saved = guests[form]

    rows = vol(image, "linux.pslist", ours=True)

    assert rows == vol(saved.dump, "linux.pslist", ours=False)
    assert len(re.findall(r"^0x", rows, re.MULTILINE)) > 40
    for task in workload.TASKS:
        assert re.search(rf"\t{task}\t", rows)


@pytest.mark.parametrize("form", ["sequential", "zstd", "nodes"])
def test_tasks_from_the_export(
    form: str, vol: Vol, guests: dict[str, tuple[Path, Saved]], export: Export
) -> None:
    rows = vol(export(form, "--format", "elf"), "linux.pslist", ours=False)

    assert rows == vol(guests[form][0], "linux.pslist", ours=True)


@pytest.mark.parametrize(
    ("form", "plugin", "mark"),
    [
        ("zstd", "banners.Banners", "Linux version"),
        ("raw", "linux.kmsg.Kmsg", workload.KERNEL_LOG),
        ("nodes", "linux.envars.Envars", workload.SECRET.replace("=", "\t")),
    ],
)
def test_more(
    form: str, plugin: str, mark: str, vol: Vol, guests: dict[str, tuple[Path, Saved]]
) -> None:
    """Scans with their addresses, the kernel's log, memory of processes."""
    image, saved = guests[form]

    rows = vol(image, plugin, ours=True)

    assert rows == vol(saved.dump, plugin, ours=False)
    assert mark in rows


@pytest.mark.parametrize("form", ["mapped", "zstd"])
def test_tasks_on_a_mounted_core(
    form: str, vol: Vol, guests: dict[str, tuple[Path, Saved]], tmp_path: Path
) -> None:
    if lack():
        pytest.skip(lack())
    image, saved = guests[form]
    link = tmp_path / "image"
    link.symlink_to(image)

    with mounted(link) as folder:
        rows = vol(folder / "memory.elf", "linux.pslist", ours=False)

    assert rows == vol(saved.dump, "linux.pslist", ours=False)
