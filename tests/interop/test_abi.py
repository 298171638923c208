"""The table of edits that a saved guest may have is libvirt's own judgement."""

from __future__ import annotations

from pathlib import Path

import pytest
from abitable import BASE, IGNORED, LATER, REFUSED, SINCE, edited
from builder import make_envelope, make_stream

from interop.conftest import version_of
from interop.libvirt import Libvirt, VirshError

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("name", [*REFUSED, *IGNORED, *LATER])
def test_libvirt_judges_so(name: str, libvirt: Libvirt, tmp_path: Path) -> None:
    image, new = tmp_path / "image", tmp_path / "new.xml"
    image.write_bytes(make_envelope(xml=BASE.encode(), padding=1 << 16) + make_stream())
    words = {**REFUSED, **IGNORED, **LATER}[name]
    new.write_text(edited(*words))

    if name in REFUSED or (name in LATER and (version_of("virsh") or ()) >= SINCE[name]):
        with pytest.raises(VirshError, match=r"do(es)?( not|n't) match|differs"):
            libvirt.virsh("save-image-define", image, new)
    else:
        libvirt.virsh("save-image-define", image, new)
