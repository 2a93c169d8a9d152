"""The scripted session of docs/runaway.md runs, and prints what the page says."""

from __future__ import annotations

import asyncio
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from bursar.adapters.data_dir import DataDir
from bursar.config import parse_settings
from bursar.server import Running, serve
from bursar.sim import Simulator
from bursar.sim import serve as simulate

PAGE = (Path(__file__).parents[2] / "docs" / "runaway.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found, kind
    return found[1]


async def run_page(folder: Path) -> str:
    """What the agent prints, with the page's own configuration, on free ports."""
    (folder / "agent.py").write_text(block("python").replace("http://localhost:4000", "URL"), encoding="utf-8")
    stop = asyncio.Event()
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    async with simulate(Simulator(seed=1)) as sim:
        text = block("yaml").replace("http://localhost:4010", sim.url) + "server: {port: 0}\n"
        serving = asyncio.create_task(
            serve(DataDir(folder / "data"), parse_settings(text), started=started.set_result, stop=stop)
        )
        script = (folder / "agent.py").read_text(encoding="utf-8").replace("URL", (await started).url)
        (folder / "agent.py").write_text(script, encoding="utf-8")
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "agent.py", cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed, _ = await asyncio.wait_for(agent.communicate(), 50)
        stop.set()
        await serving
    return printed.decode()


async def test_the_runaway_agent_ends_within_its_dollar(tmp_path: Path) -> None:
    """Told at 80 %, moved at 90 %, stopped at or below $1.00, its work saved: as printed on the page."""
    printed = await run_page(tmp_path)
    assert printed == block("text")
    lines = printed.splitlines()
    left = {line.rpartition("changed: ")[2]: Decimal(re.findall(r"\$([\d.]+) left", line)[0]) for line in lines[:3]}
    assert Decimal("0.15") < left["note"] <= Decimal("0.20")
    assert Decimal("0.05") < left["model,note"] <= Decimal("0.10")
    spent = re.search(r"has \$1: \$([\d.]+) spent, \$0 held", printed)
    assert spent
    assert Decimal("0.95") < Decimal(spent[1]) <= 1
    assert len((tmp_path / "report.txt").read_text(encoding="utf-8")) > 1_000


if __name__ == "__main__":  # what to put on the page
    sys.stdout.write(asyncio.run(run_page(Path(sys.argv[1]))))

pytestmark = pytest.mark.timeout(60)
