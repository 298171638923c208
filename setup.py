"""Name the C core; everything else is in pyproject.toml."""

from __future__ import annotations

import sysconfig

from setuptools import setup

# One wheel serves every CPython from 3.11 on, except the free-threaded builds:
# they have no limited API, so theirs carries its own tag.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    cffi_modules=["csrc/build_core.py:ffibuilder"],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
