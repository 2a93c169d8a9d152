"""A running gateway over time: new configuration, a second server, a clock that goes back, and TLS to providers."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from house import CHAT, GPT, STREAMS, WHOLE, House, assert_booked, gateway, running, task_name, until, with_sims

from bursar.adapters.data_dir import DataDir
from bursar.compose import open_books_file, open_queries
from bursar.config import ProviderSettings, Server, Settings, load_settings
from bursar.core.errors import DataDirInUseError
from bursar.server import serve
from bursar.sim import Simulator
from bursar.sim import serve as simulate

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-running")]

CHAT_ASK = WHOLE[0]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.server._RELOAD_EVERY_S", 0.01)


@pytest_asyncio.fixture(loop_scope="module")
async def configured(tmp_path: Path) -> AsyncIterator[tuple[House, Path]]:
    """A gateway that reads bursar.yaml in its data directory, and that file."""
    data = tmp_path / "data"
    data.mkdir()
    file = data / "bursar.yaml"
    async with simulate(Simulator(seed=7)) as sim, simulate(Simulator(seed=8)) as other:
        file.write_text(yaml_for(sim.url))
        async with running(data, load_settings(file), sim, other) as house:
            yield house, file


def yaml_for(url: str, more: str = "") -> str:
    return f"server:\n  port: 0\nproviders:\n  openai:\n    base_url: {url}/v1\n{more}"


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await until(lambda: any(text in record.getMessage() for record in caplog.records))


# --- configuration ----------------------------------------------------------------------------------------------


async def test_a_new_base_url_takes_effect(configured: tuple[House, Path], caplog: pytest.LogCaptureFixture) -> None:
    """The file changes, the next call goes to the new place; a call under way keeps what it began with."""
    house, file = configured
    caplog.set_level(logging.INFO, logger="bursar")
    under_way = asyncio.create_task(house.ask(CHAT_ASK, x_sim_fault="slow=200"))
    await until(lambda: len(house.calls) == 1)
    file.write_text(yaml_for(house.other.url))
    await logged(caplog, "configuration and prices loaded again")
    assert (await house.ask(CHAT_ASK)).status_code == 200
    assert (await under_way).status_code == 200
    assert (len(house.calls), len(house.other.simulator.calls)) == (1, 1)


@pytest.mark.parametrize(
    "text",
    ["providers: [", "providers:\n  openai:\n    base_ulr: http://x\n", "server:\n  port: 99999999\n", "- a\n", "\x00"],
)
async def test_a_broken_file_changes_nothing(
    configured: tuple[House, Path], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """An error in the file is logged with its place and counted; the configuration in force stays."""
    house, file = configured
    file.write_text(text)
    await logged(caplog, "the new configuration is not used")
    assert (await house.ask(CHAT_ASK)).status_code == 200
    assert len(house.calls) == 1
    assert "bursar_config_errors_total 1" in (await house.client.get("/metrics")).text


async def test_a_cache_that_is_new_is_the_one_that_the_file_says(
    configured: tuple[House, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """In memory, and not in the file of a configuration that said nothing of it. Another store waits for the next start."""
    house, file = configured
    caplog.set_level(logging.INFO, logger="bursar")
    routes = "routes:\n  '*': {cache: {sampled: true}}\n"
    file.write_text(yaml_for(house.sim.url, f"cache: {{store: memory}}\n{routes}"))
    await logged(caplog, "configuration and prices loaded again")
    assert [(await house.ask(CHAT_ASK)).headers["x-bursar-cache"] for _ in range(2)] == ["miss", "exact"]
    assert not (house.path / "cache.sqlite3").exists()
    file.write_text(yaml_for(house.sim.url, routes))
    await logged(caplog, "takes effect at the next start")
    assert (await house.ask(CHAT_ASK)).headers["x-bursar-cache"] == "exact"


@pytest.mark.parametrize(
    "route",
    [
        "{cache: {semantic: {embed: 'ends_at_import:embed'}}}",
        "{cache: {semantic: {embed: nowhere/model}}}",
        "{cache: {volatile: '(?=a)'}}",
    ],
)
async def test_a_route_that_cannot_be_leaves_the_old_ones_in_force(
    configured: tuple[House, Path],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    """Even a module of the user's that ends the process as it is imported."""
    house, file = configured
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ends_at_import.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    file.write_text(yaml_for(house.sim.url, f"routes:\n  '*': {route}\n"))
    await logged(caplog, "the new configuration is not used")
    answer = await house.ask(CHAT_ASK)
    assert (answer.status_code, answer.headers["x-bursar-rung"]) == (200, "primary")
    assert "x-bursar-cache" not in answer.headers


async def test_a_new_price_is_charged_from_the_next_call_on(
    configured: tuple[House, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A negotiated price in the file is charged from the next call on; what was charged before stays."""
    house, file = configured
    caplog.set_level(logging.INFO, logger="bursar")
    before, after = task_name(), task_name()
    await house.ask(CHAT_ASK, x_bursar_task=before)
    override = (
        "prices:\n  models:\n    - provider: openai\n      model: gpt-4o-mini*\n      source: our contract\n"
        "      input: 1000\n      output: 2000\n"
    )
    file.write_text(yaml_for(house.sim.url, override))
    await logged(caplog, "configuration and prices loaded again")
    await house.ask(CHAT_ASK, x_bursar_task=after)
    first, second = await house.row(before), await house.row(after)
    assert_booked(first, house.calls[0], "openai")
    assert second["units"] == first["units"]
    tokens = second["units"]
    assert second["cost_nanousd"] == tokens["input_tokens"] * 1_000_000 + tokens["output_tokens"] * 2_000_000


# --- one server, one clock --------------------------------------------------------------------------------------


async def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """Two servers on one data directory: the second fails at once and says who has it; the first goes on."""
    async with gateway(tmp_path) as house:
        with pytest.raises(DataDirInUseError, match="in use by another server"):
            await serve(DataDir(tmp_path), with_sims(house.sim, house.other))
        assert (await house.ask(CHAT_ASK)).status_code == 200


async def test_a_free_port_is_told_by_its_number(tmp_path: Path) -> None:
    """Port 0: what the data directory says of its server is where it really listens."""
    async with gateway(tmp_path) as house:
        about = DataDir(tmp_path).server()
        assert about is not None
        assert about["url"] == house.url


async def test_a_taken_port_is_said_so(tmp_path: Path) -> None:
    """The port is another program's: an error that names it, and the data directory is free again."""
    async with gateway(tmp_path / "one") as house:
        settings = Settings(server=Server(port=house.port))
        for _ in range(2):
            with pytest.raises(OSError, match=f"{house.port}: another program has this port"):
                await serve(DataDir(tmp_path / "two"), settings)


async def test_a_clock_that_goes_back_confuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time jumps back an hour and forth a day: ids stay unique and in order, charges exact, the books in balance."""
    shift_us = 0
    true_time_ns = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: true_time_ns() + shift_us * 1000)
    tasks = [task_name() for _ in range(5)]
    async with gateway(tmp_path) as house:
        for task, hours in zip(tasks, (0, -1, -2, 24, 0), strict=True):
            shift_us = hours * 3_600_000_000
            await house.ask(STREAMS[0], x_bursar_task=task)
        rows = [house.rows(task)[0] for task in tasks]
        for row, call in zip(rows, house.calls, strict=True):
            assert_booked(row, call, "openai")
        hours = [round((row["started_us"] - rows[0]["started_us"]) / 3_600_000_000) for row in rows]
        assert hours == [0, -1, -2, 24, 0], "what the clock said is what is booked"
    ids = [row["call_id"] for row in rows]
    assert len(set(ids)) == 5
    assert ids[0][:12] <= ids[1][:12] <= ids[2][:12] <= ids[3][:12] == ids[4][:12], "the time part never goes back"


async def test_the_ledger_has_every_row_while_the_server_runs(tmp_path: Path) -> None:
    """Views of another process see each call that ended before they asked."""
    async with gateway(tmp_path) as house:
        for ask in (*WHOLE, *STREAMS):
            await house.ask(ask)

        def look() -> list[dict[str, object]]:
            with open_queries(tmp_path) as ledger:
                return ledger.rows("SELECT call_id, cost_nanousd FROM attempt ORDER BY sequence")

        found = await asyncio.to_thread(look)
        assert found == [{"call_id": row["call_id"], "cost_nanousd": row["cost_nanousd"]} for row in house.rows()]


async def test_what_a_crash_left_behind_is_charged_at_the_next_start(tmp_path: Path) -> None:
    """A hold whose process died is closed by the next server before it takes calls, at its estimate, and says so."""
    async with gateway(tmp_path) as house:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bursar.adapters.books_async.AsyncBooks.settle", _lost)
            await house.ask(CHAT_ASK, x_bursar_task="lost")
        assert house.rows("lost") == []
        settings, sim, other = house.settings, house.sim, house.other
        await house.end()
        async with running(tmp_path, settings, sim, other) as again:
            row = await again.row("lost")
            assert (row["status"], row["estimated"]) == ("expired", True)
            assert row["cost_nanousd"] > 0
        with closing(open_books_file(house.data, settings)) as books:
            assert books.open_holds() == 0


async def _lost(*_: object) -> None:
    """What a crash does between the answer and its settlement."""


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("tls")
    certificate, key = path / "certificate.pem", path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no certificate could be made with openssl: {error}")
    return certificate, key


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_without_a_trusted_certificate_gets_nothing(
    tmp_path: Path, self_signed: tuple[Path, Path], stream: bool
) -> None:
    """A self-signed certificate: 502 that says so; neither the key nor the prompt was sent, and nothing is booked."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed)
    async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        settings = Settings(server=Server(port=0), providers={"openai": ProviderSettings(base_url=url)})
        async with gateway(tmp_path, settings=settings) as house:
            body = {**CHAT, "model": GPT, "stream": stream}
            answer = await house.ask(CHAT_ASK, content=json.dumps(body).encode())
            assert answer.status_code == 502
            error = answer.json()["error"]
            assert error["bursar"]["code"] == "upstream_unreachable"
            assert "certificate" in error["message"]
            assert house.rows() == []
    assert not any(heard)
