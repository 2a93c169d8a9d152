"""Other gateways beside us, each in an environment of its own under ``.peers/``, with the same provider and load.

Rule 1: what cannot be installed or started is not measured, and the report says why. It is never zero.
Rule 2: a peer runs as its documentation says for production, without a database: it does less than Bursar, not more.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from importlib.metadata import PathDistribution
from pathlib import Path
from subprocess import SubprocessError

from bench.gateway import (
    CONNECTIONS,
    Side,
    chat_request,
    cpu_us,
    disturbed,
    per_s,
    run_once,
    start_bursar,
    wait_for_answer,
)
from bench.load import tool
from bench.measure import PYTHON, ROOT, BenchError, Processes, cores, free_port, memory_mib, pin, run
from bench.report import Figure, Report, not_measured
from bench.samples import MODEL
from bench.upstream import Upstream, start_upstream

__all__ = ["LITELLM_START_S_MAX", "install", "measure", "start_litellm"]

_PEERS = ROOT / ".peers"
_LITELLM = "LiteLLM proxy, no database"
_INSTALL_S_MAX = 900
LITELLM_START_S_MAX = 120


def measure(*, quick: bool) -> Report:
    version, why = install("litellm", "litellm[proxy]")
    name = f"{_LITELLM} {version}".strip()
    mine, others = cores() or (None, None)
    pin(others)
    try:
        with Processes() as processes, tempfile.TemporaryDirectory(prefix="bursar-bench-") as temporary:
            directory = Path(temporary)
            upstream = start_upstream(processes, directory, others)
            us = start_bursar(processes, "Bursar, all on", directory / "data", upstream, mine, own_key=False)
            wait_for_answer(us.port, chat_request(us.key), us.process)
            sides = [us]
            try:
                if not why:
                    peer = _start_litellm(processes, name, directory, upstream, mine)
                    wait_for_answer(peer.port, chat_request(peer.key), peer.process, within_s=LITELLM_START_S_MAX)
                    sides.append(peer)
            except BenchError as error:
                why = str(error)
            for length_s in (2, 3) if quick else (2, 5, 5, 5):
                for side in sides:
                    if length_s > 2 and side.loads == 1:
                        side.chat.clear()  # the first was to warm up
                    run_once(side, "", upstream, directory, others, length_s, may_fail=True)
            for side in sides:
                side.memory_mib = memory_mib(side.process.pid)
    finally:
        pin(mine | others if mine and others else None)
    figures = _figures(*sides) if len(sides) == 2 else [not_measured(name, why)]
    notes = (
        f"load: {tool()}, {CONNECTIONS} connections; both processes share one core and take turns",
        "other gateways are not measured here",
        *disturbed(sides),
    )
    return Report("peers", tuple(figures), notes)


def _figures(us: Side, peer: Side) -> list[Figure]:
    rate, its = per_s(us.chat), per_s(peer.chat)
    failed = sum(one.load.errors for one in peer.chat)
    note = f"{failed} of its requests failed" if failed else ""
    figures = [Figure("Bursar, all on: requests/s", rate, "/s", peer.name, its, ">= 60 x", rate >= 60 * its, note)]
    for what, unit, mine, theirs in (
        ("CPU for a request", "us", cpu_us(us.chat), cpu_us(peer.chat)),
        ("memory after the load", "MiB", us.memory_mib, peer.memory_mib),
    ):
        figures.append(Figure(f"Bursar, all on: {what}", mine, unit, peer.name, theirs))
    return figures


def install(name: str, requirement: str) -> tuple[str, str]:
    """The version that is installed, or why none is."""
    home = _PEERS / name
    python = home / "bin" / "python"
    try:
        if not python.exists():
            run([PYTHON, "-m", "venv", home])
        found = _version(home, name)
        if not found:
            print(f"installing {requirement} into {home.relative_to(ROOT)} ...", flush=True)
            run(
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
                timeout=_INSTALL_S_MAX,
            )
            found = _version(home, name)
    except (BenchError, OSError, SubprocessError) as error:
        return "", f"{requirement} could not be installed: {str(error)[-300:]}"
    return found, "" if found else f"{requirement} was installed, and is not there"


def _version(home: Path, name: str) -> str:
    return next((PathDistribution(path).version for path in home.glob(f"lib/*/site-packages/{name}-*.dist-info")), "")


def _start_litellm(processes: Processes, name: str, directory: Path, upstream: Upstream, mine: set[int] | None) -> Side:
    key = "sk-bench-master-key"
    config = directory / "litellm.yaml"
    config.write_text(
        f"""\
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://127.0.0.1:{upstream.port}/v1
      api_key: sk-the-server-has-this-key
general_settings:
  master_key: {key}
litellm_settings:
  num_retries: 0
""",
        encoding="utf-8",
    )
    port = free_port()
    return Side(name, port, key, start_litellm(processes, config, port, mine))


def start_litellm(processes: Processes, config: Path, port: int, on: set[int] | None) -> subprocess.Popen[bytes]:
    """Its proxy with this configuration, one worker. What it says goes to a file beside the configuration."""
    return processes.start(
        [_PEERS / "litellm" / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1],
        log=config.with_suffix(".log"),
        on=on,
        env={"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
             "LITELLM_TELEMETRY": "False", "PATH": f"{_PEERS / 'litellm' / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
