"""A Linux guest of known content, and what the field's own tools find in its images."""

from __future__ import annotations
