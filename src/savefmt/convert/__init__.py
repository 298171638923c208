"""Another layout, codec or envelope for the same guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from savefmt.lazy import loader

if TYPE_CHECKING:
    from savefmt.convert.conversion import convert as convert
else:
    __getattr__ = loader(__name__, {"conversion": "convert"})
