"""Another layout, codec or envelope for the same guest."""

from __future__ import annotations

from savefmt.convert.conversion import convert as convert
