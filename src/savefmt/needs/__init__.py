"""What a guest needs besides its image, and what of it this host has."""

from __future__ import annotations

from savefmt.needs.listing import needs as needs
