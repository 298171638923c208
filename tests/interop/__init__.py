"""Tests against the real QEMU and libvirt, and the harness that drives them."""

from __future__ import annotations
