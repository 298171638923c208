"""The outer compression of an image: one codec per program that libvirt may pipe through."""

from __future__ import annotations
