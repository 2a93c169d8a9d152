"""Hooks into libraries, at once or when they are first imported: none is imported for it.

Rule 1: a library that cannot be hooked is said and left alone; its calls are not seen.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

__all__ = ["Hook", "install", "remove"]

_log = logging.getLogger("bursar.sdk")

Hook = Callable[[ModuleType], None]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the others find, and hooks what they have loaded."""

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self.hooks = dict(hooks)
        self._looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.hooks or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.hooks[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, hook: Hook) -> None:
        self._loader = loader
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _hook(module, self._hook)


_installed: Final[list[_Finder]] = []


def install(hooks: Mapping[str, Hook]) -> None:
    """Hook the named modules: those that are loaded now, the others when they are."""
    remove()
    for name, hook in hooks.items():
        module = sys.modules.get(name)
        if module is not None:
            _hook(module, hook)
    finder = _Finder(hooks)
    sys.meta_path.insert(0, finder)
    _installed.append(finder)


def remove() -> None:
    """Hook nothing any more that is imported from now on."""
    for finder in _installed:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
    _installed.clear()


def _hook(module: ModuleType, hook: Hook) -> None:
    try:
        hook(module)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user's import must go on (rule 1)
        _log.error("%s cannot be hooked, its calls are not seen: %s", module.__name__, error)
