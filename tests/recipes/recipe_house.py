"""Recipes as users run them: a program, its framework's own environment, a simulated provider, and then the reports.

Rule 1: a program is started as it stands in its folder; what it is told is its budget, and where the provider is.
Rule 2: every framework has an environment of its own, so that their pins do not fight, with what ``pip install bursar``
        brings and no extra: reports come from the environment of the tests. It is made once, and again only when its
        requirements or this project's change.
Rule 3: a program's surroundings hold nothing of who runs the tests: no keys, no home, no proxy.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bursar.adapters.prices_file import bundled_book
from bursar.core.prices import Reading, charge
from bursar.sim import Call, Served

__all__ = [
    "CLAUDE",
    "HERE",
    "RECIPES",
    "ROOT",
    "SEARCH_NANOUSD",
    "House",
    "Recipe",
    "Run",
    "billed",
    "environment",
    "nanousd",
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEARCH_NANOUSD = 5_000_000
"""What the programs say a search costs."""

_RUN_S_MAX = 90
_INSTALL_S_MAX = 240
_PREFIXES = {"openai": "/v1", "anthropic": "/v1", "google": ""}
_QUIET = {
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "MAX_THINKING_TOKENS": "4000",  # it then also writes a prompt cache, which has a price of its own
}
"""Frameworks that report home are told not to."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One program. ``calls`` and ``searches`` are what a run that ends asks the provider and the paid tool,
    ``calls_first`` what it asks the provider before its first search."""

    program: str
    folder: str
    provider: str = "openai"
    calls: int = 3
    calls_first: int = 1
    searches: int = 1
    agents: frozenset[str] = frozenset({"researcher", "editor"})

    @property
    def path(self) -> Path:
        return HERE / self.folder / f"{self.program}.py"


RECIPES = (
    Recipe("openai_loop", "light"),
    Recipe("openai_gather", "light", calls=4, calls_first=0, searches=3),
    Recipe("anthropic_stream", "light", "anthropic"),
    Recipe("gemini_loop", "light", "google"),
    Recipe("agents_desk", "light", calls=4, calls_first=2),
    Recipe("pydantic_desk", "light", calls=4, calls_first=2),
    Recipe("langgraph_desk", "langgraph"),
    Recipe("llama_desk", "llama_index", calls=4, calls_first=2),
    Recipe("adk_desk", "google_adk", "google"),
    Recipe("crewai_desk", "crewai"),
)
CLAUDE = Recipe("claude_desk", "claude_agent", "anthropic", calls=4, calls_first=2)
"""Its model calls leave from another program, which reports them as telemetry."""


@dataclass(frozen=True, slots=True)
class Run:
    code: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class House:
    """A simulated provider and the data directory that the programs of one test share."""

    sim: Served
    data: Path
    settings: str = field(default="")

    def configure(self, provider: str) -> None:
        """``bursar.yaml`` as a user of a proxy would write it: where this provider is."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        where = f"providers:\n  {provider}:\n    base_url: {self.sim.url}{_PREFIXES[provider]}\n"
        (self.data / "bursar.yaml").write_text(where + self.settings, encoding="utf-8")

    @property
    def calls(self) -> list[Call]:
        return list(self.sim.simulator.calls)

    async def run(self, recipe: Recipe, *arguments: str, **variables: str) -> Run:
        """The recipe's program to its end, in its own environment. ``variables`` are set besides."""
        self.configure(recipe.provider)
        python = await asyncio.to_thread(environment, recipe.folder)
        where = self.data.parent
        return await _run(python, recipe.path, *arguments, cwd=where, variables=self._variables() | variables)

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[str]:
        """The URL of a running ``bursar up`` over the same data. At the end it has decided on all that was sent to it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bursar", "up", "--port", "0"),
            cwd=self.data.parent,
            env={**self._variables(), "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_RUN_S_MAX):
                line = (await process.stdout.readline()).decode()
                assert line.startswith("Bursar listens on "), line
                url = line.split()[3]
                yield url
                await asyncio.to_thread(_until_decided, url)
        finally:
            process.terminate()
            await process.communicate()
        assert process.returncode == 0

    async def bursar(self, *words: str) -> Run:
        """A command of this project over the same data."""
        variables = self._variables()
        return await _run(Path(sys.executable), "-m", "bursar", *words, cwd=self.data.parent, variables=variables)

    async def tree(self, task: str) -> dict[str, Any]:
        shown = await self.bursar("task", task, "--json")
        assert shown.code == 0, shown.errors
        return json.loads(shown.output)

    async def tasks(self) -> list[dict[str, Any]]:
        shown = await self.bursar("tasks", "--json")
        assert shown.code == 0, shown.errors
        return json.loads(shown.output)["rows"]

    async def prove(self) -> None:
        """The books agree with themselves and with the ledger, and nothing is held any more."""
        shown = await self.bursar("verify", "--json")
        assert shown.code == 0, shown.output
        assert json.loads(shown.output)["open_holds"] == 0

    def _variables(self) -> dict[str, str]:
        home = self.data.parent / "home"
        home.mkdir(exist_ok=True)
        url = self.sim.url
        return {
            "PATH": os.defpath,
            "HOME": str(home),
            "BURSAR_DATA": str(self.data),
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",  # LlamaIndex reads this one
            "OPENAI_API_KEY": "any-text-is-a-key",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "any-text-is-a-key",
            "GOOGLE_GEMINI_BASE_URL": url,
            "GOOGLE_API_KEY": "any-text-is-a-key",
            **_QUIET,
        }


def _until_decided(url: str) -> None:
    """Until no observation of telemetry waits for the server's decision, which takes as long as a trace may still grow."""
    for _ in range(300):
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(r"^bursar_telemetry_backlog\S* (\S+)$", text, re.MULTILINE)
        assert found, "the server does not say what waits"
        if float(found[1]) == 0:
            return
        time.sleep(0.1)
    raise AssertionError("observations still wait")


async def _run(python: Path, *words: str | Path, cwd: Path, variables: dict[str, str]) -> Run:
    process = await asyncio.create_subprocess_exec(
        python,
        *words,
        cwd=cwd,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RUN_S_MAX):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Run(process.returncode, output.decode(), errors.decode())


def environment(folder: str) -> Path:
    """The Python of a framework's environment, which is made when it is not there or no longer what is required."""
    place = ROOT / ".venv-recipes" / folder
    required = HERE / folder / "requirements.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = repr((project["dependencies"], sys.version)).encode()
    wanted = sha256(required.read_bytes() + own).hexdigest()
    python, stamp = place / "bin" / "python", place / ".installed"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that want the same environment wait for the first
        if not (stamp.exists() and stamp.read_text(encoding="ascii") == wanted):
            uv = Path(sys.executable).with_name("uv")
            _install(uv, "venv", "--clear", "--python", sys.executable, place)
            _install(
                uv, "pip", "install", "--python", python, "--requirements", required, "--editable", f"{ROOT}[server]"
            )
            stamp.write_text(wanted, encoding="ascii")
    return python


def _install(uv: Path, *words: str | Path) -> None:
    done = subprocess.run([uv, "--quiet", *words], capture_output=True, text=True, timeout=_INSTALL_S_MAX)
    if done.returncode:
        message = f"`uv {' '.join(map(str, words[:2]))}` failed: {done.stderr.strip()}"
        if os.environ.get("CI"):
            raise RuntimeError(message)
        pytest.skip(f"a recipe needs its packages from the registry. {message}")


def nanousd(amount: str) -> int:
    """An amount of a report, which is exact decimal USD as text."""
    whole, _, part = amount.partition(".")
    assert len(part) <= 9, amount
    return int(whole + part.ljust(9, "0"))


def billed(provider: str, call: Call) -> int:
    """What a call cost by the provider's own account of it, in nano-USD."""
    reading = Reading(usage=call.usage, model=call.model)
    at = datetime.now(timezone.utc)
    amount = charge(reading, bundled_book(), provider=provider, model=call.model, at=at).amount
    assert amount is not None, call
    return amount
