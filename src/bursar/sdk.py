"""``bursar.init()``: puts the door in the agent's own process together.

Rule 1: what is given wins over the environment (BURSAR_MODE, BURSAR_SERVER, BURSAR_KEY, BURSAR_DATA, BURSAR_CONFIG), that
        over bursar.yaml.
Rule 2: calling it again replaces what was set up; what had ended until then is written first.
Rule 3: nothing that only a server needs is imported.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from bursar.adapters.cache_open import open_tool_cache_store
from bursar.adapters.ids import IdMaker
from bursar.compose import find_config, now_us, open_data, open_treasury, settings_of
from bursar.core.errors import ConfigError
from bursar.core.scopes import VALUE_LENGTH_MAX, Scope, make_labels
from bursar.doors.sdk import aiohttp_client, bedrock
from bursar.doors.sdk.carry import hook_threads, unhook_threads
from bursar.doors.sdk.hooks import install, remove
from bursar.doors.sdk.http import LIBRARIES, client_class, hook, unhook
from bursar.doors.sdk.session import Hosts, Mode, Session, activate, active, required
from bursar.doors.sdk.tool_cache import ToolCache

__all__ = ["async_http_client", "flush", "http_client", "init", "shutdown"]

_MODES: Final = ("enforce", "observe")
_EXIT_WAIT_S: Final = 5.0
_CACHE_MEMORY_MB: Final = 16  # an agent's process is not a server
_HOOKS: Final = {
    **dict.fromkeys(LIBRARIES, (hook, unhook)),
    aiohttp_client.LIBRARY: (aiohttp_client.hook, aiohttp_client.unhook),
    bedrock.LIBRARY: (bedrock.hook, bedrock.unhook),
}
_COLUMNS: Final = ("org", "team", "project", "user", "agent", "session")


def init(
    *,
    mode: Mode | None = None,
    data: str | Path | None = None,
    config: str | Path | None = None,
    server: str | None = None,
    key: str | None = None,
    on_failure: Literal["closed", "open"] | None = None,
    patch: bool = True,
    org: str = "",
    team: str = "",
    project: str = "",
    user: str = "",
    agent: str = "",
    session: str = "",
    labels: Mapping[str, str] | None = None,
) -> None:
    """Track, and hold to their budgets, the model calls of this process: those that official SDKs make over httpx, httpx2,
    aiohttp or botocore. No client and no base URL changes.

    ``mode`` is "enforce" (calls are held for before they leave, and refused when a budget has no more) or "observe" (calls
    are only counted, and nothing of Bursar's stands in their way). Without ``server`` the books are files in ``data``
    (default: as the ``bursar`` command's), shared by every process of the machine; with it, a Bursar server's URL, they are
    the server's, and ``key`` one of its keys. ``on_failure`` is what happens to calls for which nobody can be asked: "closed"
    refuses them (as their budgets say: ``on_store_failure``), "open" lets them go on, counted afterwards.
    ``patch`` False hooks no library: then only clients made with ``http_client`` are seen.
    The columns and ``labels`` are for every call that says nothing else.

    Raises ConfigError for values that cannot be, BooksError when the books cannot be opened.
    """
    chosen = mode or os.environ.get("BURSAR_MODE") or "enforce"
    if chosen not in _MODES:
        raise ConfigError(f"mode: {chosen!r} is not known; choose enforce or observe")
    if on_failure not in (None, "closed", "open"):
        raise ConfigError(f"on_failure: {on_failure!r} is not known; choose closed or open")
    columns = {"org": org, "team": team, "project": project, "user": user, "agent": agent, "session": session}
    for name, value in columns.items():
        if len(value) > VALUE_LENGTH_MAX:
            raise ConfigError(f"{name} has {len(value)} characters, at most {VALUE_LENGTH_MAX} are kept")
    shutdown()
    directory = open_data(Path(data) if data is not None else None)
    settings = settings_of(directory, Path(config) if config is not None else None)
    url = server or os.environ.get("BURSAR_SERVER") or ""
    secret = key or os.environ.get("BURSAR_KEY") or ""
    opened = open_treasury(directory, settings, find_config(directory, Path(config) if config else None), url, secret)
    here = directory.server() or {}
    open_store = partial(
        open_tool_cache_store,
        directory.cache,
        size_mb=settings.cache.size_mb,
        memory_mb=min(settings.cache.memory_mb, _CACHE_MEMORY_MB),
        encryption_env=settings.cache.encryption_env,
        environment=os.environ,
        clock_us=now_us,
    )
    gateways = tuple(each for each in (url, here.get("url", "")) if each)
    activate(
        Session(
            treasury=opened.treasury,
            hosts=Hosts(opened.providers, gateways),
            mode="observe" if chosen == "observe" else "enforce",
            defaults=Scope(**columns, labels=make_labels(labels or {})),
            wait_s=settings.budget_wait_s,
            on_failure=on_failure or ("open" if chosen == "observe" else "closed"),
            now_us=now_us,
            new_id=_new_id,
            said=set(),
            cache=ToolCache(open_store),
        )
    )
    if patch:
        install({name: put for name, (put, _) in _HOOKS.items()})
        hook_threads()


_new_id: Final[Callable[[], str]] = IdMaker()


def flush(timeout_s: float = _EXIT_WAIT_S) -> bool:
    """Write, or send, everything that has ended. False when that did not work in time: nothing is lost, it is charged by
    estimate later. Raises NotInitialized."""
    return required().treasury.flush(timeout_s)


def shutdown(timeout_s: float = _EXIT_WAIT_S) -> bool:
    """Flush, and leave every library as it was. What is called afterwards is not seen. Without ``init`` it does nothing."""
    session = activate(None)
    remove()
    unhook_threads()
    for name, (_, take_away) in _HOOKS.items():
        library = sys.modules.get(name)
        if library is not None:
            take_away(library)
    if session is None:
        return True
    if session.cache is not None:
        session.cache.close()
    return session.treasury.close(timeout_s)


def _at_exit() -> None:
    session = active()
    if session is not None:
        session.treasury.flush(_EXIT_WAIT_S)


atexit.register(_at_exit)


# --- explicit clients -------------------------------------------------------------------------------------------


def http_client(library: ModuleType | None = None, /, **options: Any) -> Any:
    """An HTTP client whose calls are seen, for SDKs that take one: ``OpenAI(http_client=bursar.http_client())``.

    ``library`` is ``httpx2`` or ``httpx``, as the SDK needs it; the newest of them that is installed by default. ``options`` are
    its Client's.
    """
    return client_class(library or _library(), asynchronous=False)(**options)


def async_http_client(library: ModuleType | None = None, /, **options: Any) -> Any:
    """The same for asynchronous SDK clients."""
    return client_class(library or _library(), asynchronous=True)(**options)


def _library() -> ModuleType:
    from importlib import import_module

    for name in LIBRARIES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise ConfigError(f"neither {' nor '.join(LIBRARIES)} is installed: install the SDK whose calls are to be seen")
