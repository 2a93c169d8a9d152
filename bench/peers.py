"""Other gateways beside us, each in an environment of its own under ``.peers/``, with the same provider and load.

Rule 1: what cannot be installed or started is not measured, and the report says why. It is never zero.
Rule 2: a peer runs as its documentation says for production, without a database: it does less than Bursar, not more.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import PathDistribution
from pathlib import Path
from subprocess import SubprocessError

from bench.gateway import CONNECTIONS, Side, chat_request, start_bursar, wait_for_answer
from bench.load import hammer, tool
from bench.measure import PYTHON, ROOT, BenchError, Processes, cores, cpu_s, free_port, idle, memory_mib, pin, run
from bench.report import Figure, Report, not_measured
from bench.samples import MODEL
from bench.upstream import Upstream, start_upstream

__all__ = ["measure"]

_PEERS = ROOT / ".peers"
_LITELLM = "LiteLLM proxy, no database"
_INSTALL_S_MAX = 900
_START_S_MAX = 120


def measure(*, quick: bool) -> Report:
    length_s = 3 if quick else 6
    version, why = _install("litellm", "litellm[proxy]")
    mine, others = cores() or (None, None)
    pin(others)
    notes = [f"load: {tool()}, {CONNECTIONS} connections", "other gateways: not measured here"]
    try:
        with Processes() as processes, tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
            directory = Path(name)
            upstream = start_upstream(processes, directory, others)
            side = start_bursar(processes, "Bursar, all on", directory / "data", upstream, mine, own_key=False)
            wait_for_answer(side.port, chat_request(side.key), side.process)
            figures = _load("Bursar, all on", side, directory, others, length_s, None)
            if why:
                figures.append(not_measured(_LITELLM, why))
                return Report("peers", tuple(figures), tuple(notes))
            processes.stop(side.process)
            try:
                peer = _start_litellm(processes, directory, upstream, mine)
                wait_for_answer(peer.port, chat_request(peer.key), peer.process, within_s=_START_S_MAX)
                figures += _load(f"{_LITELLM} {version}", peer, directory, others, length_s, figures)
            except BenchError as error:
                figures.append(not_measured(_LITELLM, str(error)))
    finally:
        pin(mine | others if mine and others else None)
    return Report("peers", tuple(figures), tuple(notes))


def _install(name: str, requirement: str) -> tuple[str, str]:
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


def _start_litellm(processes: Processes, directory: Path, upstream: Upstream, mine: set[int] | None) -> Side:
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
    process = processes.start(
        [_PEERS / "litellm" / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1],
        log=directory / "litellm.log",
        on=mine,
        env={"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
             "LITELLM_TELEMETRY": "False", "PATH": f"{_PEERS / 'litellm' / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    return Side(_LITELLM, port, key, process)


def _load(
    name: str, side: Side, directory: Path, on: set[int] | None, length_s: int, ours: list[Figure] | None
) -> list[Figure]:
    request = chat_request(side.key)
    hammer(side.port, request, directory, connections=CONNECTIONS, seconds=2, on=on)
    idle(side.process.pid)
    before = cpu_s(side.process.pid)
    load = hammer(side.port, request, directory, connections=CONNECTIONS, seconds=length_s, on=on)
    idle(side.process.pid)
    after = cpu_s(side.process.pid)
    if not load.requests:
        raise BenchError(f"{name}: no request was answered, {load.errors} failed")
    cpu = None if before is None or after is None else (after - before) / load.requests * 1e6
    found = [(f"{name}: requests/s", load.per_s, "/s"), (f"{name}: CPU for a request", cpu, "us"),
             (f"{name}: memory after the load", memory_mib(side.process.pid), "MiB")]  # fmt: skip
    if ours is None:
        return [Figure(*each) for each in found]
    failed = f"{load.errors} requests failed" if load.errors else ""
    figures = [Figure(*each, "Bursar, all on", us.value, note=failed) for each, us in zip(found, ours, strict=True)]
    us = ours[0].value or 0.0
    goal = Figure(
        "Bursar, all on: requests/s beside LiteLLM", us, "/s", _LITELLM, load.per_s, ">= 60 x", us >= 60 * load.per_s
    )
    return [*figures, goal]
