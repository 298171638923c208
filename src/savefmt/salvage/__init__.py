"""Damaged images: what of them can be read, shown as a sound image that lacks some pages."""
