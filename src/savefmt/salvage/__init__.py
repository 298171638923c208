"""Damaged images: their readable parts, shown as a sound image that lacks some pages."""
