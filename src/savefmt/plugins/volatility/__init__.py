"""What volatility3 loads with ``-p``: it takes every file here but this one for a plugin."""

from __future__ import annotations
