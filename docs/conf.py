"""Sphinx configuration: plain Markdown through MyST."""

from __future__ import annotations

import savefmt

project = "savefmt"
author = "the savefmt authors"
release = savefmt.__version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
