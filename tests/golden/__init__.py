"""Small images made by the real QEMU and libvirt, with what is known about them."""

from __future__ import annotations
