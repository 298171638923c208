"""The guest in the formats of other tools: ELF cores, raw memory, LiME, kdump."""

from __future__ import annotations

from savefmt.export.exporting import export

__all__ = ["export"]
