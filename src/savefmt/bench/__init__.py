"""Measure how fast a disk is for save images: timed runs with a record of the environment."""

from __future__ import annotations

from savefmt.bench.comparing import compare_reports
from savefmt.bench.measuring import amount, bench, fio_job

__all__ = ["amount", "bench", "compare_reports", "fio_job"]
