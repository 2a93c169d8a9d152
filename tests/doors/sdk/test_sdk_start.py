"""An agent's process stays light: what ``import bursar`` and ``init`` load, and how long that takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sdk_room import answered, python

SERVER_ONLY = ("click", "duckdb", "granian", "pyreqwest", "rich", "prometheus_client")
IMPORT_MS_MAX = 50
RUNS = 7

LOADED = f"""
import json, sys
print(json.dumps([name for name in {(*SERVER_ONLY, "yaml", "httpx", "httpx2", "openai", "opentelemetry")!r} if name in sys.modules]))
"""


def median_ms(code: str) -> float:
    """How long a Python that does this takes."""
    times: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def test_import_is_quick() -> None:
    """Less than 50 ms above a bare interpreter, with the names that agents use; on a busy machine once in three tries."""
    use = "import bursar; bursar.task, bursar.tool, bursar.init, bursar.BudgetExceeded"
    for _ in range(3):
        if median_ms("import bursar") - median_ms("pass") < IMPORT_MS_MAX:
            break
    else:
        pytest.fail(f"import bursar takes more than {IMPORT_MS_MAX} ms")
    assert answered(python(use + "\n" + LOADED)) is not None


@pytest.mark.parametrize(
    "code", ["import bursar", "import bursar; bursar.task, bursar.tool, bursar.charge, bursar.carry"]
)
def test_an_import_loads_no_server(code: str) -> None:
    """Nor any SDK, nor a parser of configurations."""
    assert answered(python(code + "\n" + LOADED)) == []


@pytest.mark.parametrize("configured", [False, True])
def test_init_loads_no_server(tmp_path: Path, configured: bool) -> None:
    """yaml only where there is a bursar.yaml; httpx only where the program has it."""
    if configured:
        (tmp_path / "bursar.yaml").write_text("tools: {look: {per_call: 0.005}}\n")
    code = (
        f"import bursar\nbursar.init(data={str(tmp_path)!r})\n"
        "with bursar.task('t', budget='1'): bursar.charge('look', price='0.001')\n"
        "assert bursar.flush()\n"
    )
    found = set(answered(python(code + LOADED, env={"BURSAR_CONFIG": ""})))
    assert found <= ({"yaml"} if configured else set())


def test_a_process_with_a_server_loads_none(tmp_path: Path) -> None:
    """Holding through a server takes the standard library."""
    code = f"import bursar\nbursar.init(data={str(tmp_path)!r}, server='http://127.0.0.1:9', mode='observe')\nbursar.charge('x', price='1')\n"
    assert answered(python(code + "bursar.shutdown(0)\n" + LOADED)) == []
