"""Another layout, codec or envelope for the same guest."""

from savefmt.convert.run import convert as convert
