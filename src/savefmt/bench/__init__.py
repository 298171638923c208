"""Measure what a disk gives for save images: timed runs with a record of the environment."""

from __future__ import annotations

from savefmt.bench.measuring import amount, bench

__all__ = ["amount", "bench"]
