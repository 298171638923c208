"""What a guest needs in addition to its image, and which of these things this host has."""

from __future__ import annotations

from savefmt.needs.listing import needs as needs
