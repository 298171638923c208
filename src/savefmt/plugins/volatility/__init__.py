"""The folder for ``-p`` of volatility3, which takes every other file here for a plugin."""

from __future__ import annotations
