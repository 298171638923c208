"""Results as text for people and as plain values for JSON, CSV: one module a kind of result."""

from __future__ import annotations
