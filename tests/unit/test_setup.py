"""The build refuses machines that the C core cannot serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("other", ["sys.platform = 'darwin'", "sys.maxsize = 2**31 - 1"])
def test_other_machines_are_told_before_the_compiler_fails(other: str) -> None:
    lines = f"import runpy, setuptools, sys; {other}; runpy.run_path('setup.py')"

    ran = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1
    assert ran.stderr == "savefmt needs 64-bit Linux and a 64-bit Python: nothing was built.\n"
