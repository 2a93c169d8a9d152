"""Bursar: the treasurer of AI agents. ``charge_response`` prices any recorded model response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.charging import charge_response
    from bursar.core.prices import Charge, Line
    from bursar.core.usage import Usage

__all__ = ["Charge", "Line", "Usage", "__version__", "charge_response"]

__version__ = "0.1.0"

_HOMES = {
    "Charge": "bursar.core.prices",
    "Line": "bursar.core.prices",
    "Usage": "bursar.core.usage",
    "charge_response": "bursar.charging",
}


def __getattr__(name: str) -> Any:
    """Public names on first use, so that importing the package stays quick."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bursar' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
