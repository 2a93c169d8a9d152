"""The demo: three simulated agents through the real gateway, and where their money went."""

from __future__ import annotations

from .agents import AGENTS
from .client import DemoError
from .run import Finished, Options, run
from .summary import Summary

__all__ = ["AGENTS", "DemoError", "Finished", "Options", "Summary", "run"]
