"""A simulated provider: OpenAI, Anthropic and Gemini on loopback, from a seed. No key, no network, no cost."""

from __future__ import annotations

from .faults import FaultRule, parse_rules
from .server import Served, serve
from .simulator import Answer, Call, Pace, Simulator

__all__ = ["Answer", "Call", "FaultRule", "Pace", "Served", "Simulator", "parse_rules", "serve"]
