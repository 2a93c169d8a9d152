"""Bursar: the treasurer of AI agents.

``charge_response`` prices any recorded model response. ``init`` tracks the calls of this process and holds them to their
budgets; ``task``, ``agent`` and ``tool`` say what they are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.charging import charge_response
    from bursar.core.prices import Charge, Line
    from bursar.core.usage import Usage
    from bursar.doors.sdk.carry import carry, environ
    from bursar.doors.sdk.refusal import BudgetExceeded
    from bursar.doors.sdk.session import NotInitialized
    from bursar.doors.sdk.tasks import Task, agent, current, outcome, task
    from bursar.doors.sdk.tool_cache import forget
    from bursar.doors.sdk.tools import charge, tool
    from bursar.sdk import async_http_client, flush, http_client, init, shutdown

__all__ = [
    "BudgetExceeded",
    "Charge",
    "Line",
    "NotInitialized",
    "Task",
    "Usage",
    "__version__",
    "agent",
    "async_http_client",
    "carry",
    "charge",
    "charge_response",
    "current",
    "environ",
    "flush",
    "forget",
    "http_client",
    "init",
    "outcome",
    "shutdown",
    "task",
    "tool",
]

__version__ = "0.1.0"

_HOMES = {
    "BudgetExceeded": "bursar.doors.sdk.refusal",
    "Charge": "bursar.core.prices",
    "Line": "bursar.core.prices",
    "NotInitialized": "bursar.doors.sdk.session",
    "Task": "bursar.doors.sdk.tasks",
    "Usage": "bursar.core.usage",
    "agent": "bursar.doors.sdk.tasks",
    "async_http_client": "bursar.sdk",
    "carry": "bursar.doors.sdk.carry",
    "charge": "bursar.doors.sdk.tools",
    "charge_response": "bursar.charging",
    "current": "bursar.doors.sdk.tasks",
    "environ": "bursar.doors.sdk.carry",
    "flush": "bursar.sdk",
    "forget": "bursar.doors.sdk.tool_cache",
    "http_client": "bursar.sdk",
    "init": "bursar.sdk",
    "outcome": "bursar.doors.sdk.tasks",
    "shutdown": "bursar.sdk",
    "task": "bursar.doors.sdk.tasks",
    "tool": "bursar.doors.sdk.tools",
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
