"""What a guest's control registers tell of its processor."""

from __future__ import annotations

from typing import Any

import pytest

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Field, Struct
from savefmt.format.hardware import Hardware
from savefmt.guest import featuresinuse
from savefmt.guest.featuresinuse import features_in_use, processor_wanted
from savefmt.model import Section

NAMES = {"cr4": "env.cr[4]", "efer": "env.efer", "xcr0": "env.xcr0"}


class Source:
    """An image with one vCPU, or with none."""

    envelope = None

    def __init__(self, **registers: int) -> None:
        self._registers = registers
        self.devices = self

    def find(self, idstr: str, instance_id: int = 0) -> Section | None:
        return Section(idstr, instance_id, 12) if self._registers else None

    def tree(self, section: Section) -> Struct:
        if "broken" in self._registers:
            raise CorruptError("not a processor", offset=1)
        fields = [Field(NAMES[n], "uint64", 0, 8, v) for n, v in self._registers.items()]
        return Struct("cpu", 12, tuple(fields))


def test_a_linux_guest_in_long_mode() -> None:
    source: Any = Source(cr4=0x3006F0, efer=0xD01, xcr0=7)

    assert features_in_use(source) == (
        *("pae", "pge", "smep", "smap"),
        *("syscall", "lm", "nx", "avx"),
    )


@pytest.mark.parametrize("source", [Source(), Source(broken=1), Source(cr4=0)])
def test_where_nothing_tells(source: Any) -> None:
    assert features_in_use(source) == ()


def test_the_xml_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Hardware(cpu_features=(("fxsr_opt", False), ("smap", True)))
    monkeypatch.setattr(featuresinuse, "read_hardware", lambda source, findings: told)
    source: Any = Source(cr4=1 << 21, efer=1 << 14 | 1 << 11)

    assert processor_wanted(source).cpu_features == (*told.cpu_features, ("nx", True))
