"""The ABI check says of every edit what libvirt's own says."""

from __future__ import annotations

import pytest
from abitable import BASE, IGNORED, LATER, REFUSED, edited

from savefmt.format.abi import running_abi_changes


def changes(*words: str | None) -> list[str]:
    return running_abi_changes(BASE.encode(), edited(*words).encode())


@pytest.mark.parametrize("name", [*REFUSED, *LATER])
def test_what_libvirt_refuses(name: str) -> None:
    assert changes(*{**REFUSED, **LATER}[name])


@pytest.mark.parametrize("name", IGNORED)
def test_what_libvirt_ignores(name: str) -> None:
    assert changes(*IGNORED[name]) == []
