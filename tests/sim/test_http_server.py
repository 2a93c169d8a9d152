"""The server adapter and the simulator's shell: ports, stopping, broken connections, waiting, and the command."""

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time

import httpx2
import pytest
from sim_requests import CHAT, OPENAI, chat

from bursar.adapters.http_server import HttpServer, ProtocolClosed
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.sim import Pace, Served, Simulator, serve


async def hello(scope: HttpScope, protocol: HttpProtocol) -> None:
    protocol.response_bytes(200, [("content-type", "text/plain")], scope.path.encode() + await protocol())


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is a counter of the server, not an event
            await asyncio.sleep(0.005)


async def test_port_zero_takes_a_free_port_and_serves_at_once() -> None:
    """After start the real port is known and the first request is answered."""
    server = HttpServer(hello, "127.0.0.1", 0)
    await server.start()
    try:
        async with httpx2.AsyncClient() as client:
            answer = await client.post(f"{server.url}/a", content=b"-b")
        assert (answer.status_code, answer.text) == (200, "/a-b")
    finally:
        await server.stop(0.1)


async def test_a_second_server_on_the_port_is_refused() -> None:
    """The port is exclusive: the second start fails with the address in the message; after a stop it is free."""
    first = HttpServer(hello, "127.0.0.1", 0)
    await first.start()
    second = HttpServer(hello, "127.0.0.1", first.port)
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{first.port}: another program has this port"):
        await second.start()
    await first.stop(0.1)
    await second.start()
    await second.stop(0.1)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70_000)])
async def test_an_impossible_address_is_named(host: str, port: int) -> None:
    """An address that this machine does not have, and a port out of range, are clear errors."""
    with pytest.raises(OSError, match=f"cannot listen on {host}:{port}: this machine has no such address"):
        await HttpServer(hello, host, port).start()


async def test_stop_waits_for_requests_and_then_cancels_them() -> None:
    """Within the grace a request ends in peace; beyond it, it is cancelled and the server stops all the same."""
    ends: list[str] = []

    async def app(scope: HttpScope, protocol: HttpProtocol) -> None:
        try:
            await asyncio.sleep(0.15 if scope.path == "/short" else 30)
            protocol.response_bytes(200, [], b"done")
            ends.append("answered")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    for path, grace_s, end, status in (("/short", 5.0, "answered", 200), ("/long", 0.05, "cancelled", 500)):
        server = HttpServer(app, "127.0.0.1", 0)
        await server.start()
        async with httpx2.AsyncClient() as client:
            request = asyncio.create_task(client.get(server.url + path))
            await until(lambda server=server: server.requests_open)
            started = time.monotonic()
            await server.stop(grace_s)
            assert time.monotonic() - started < 2
            assert (await request).status_code == status
            with pytest.raises(httpx2.ConnectError):
                await client.get(server.url)
        assert ends[-1] == end
        await server.stop()


async def test_a_client_that_leaves_is_noticed() -> None:
    """Sending to a client that has gone raises ``ProtocolClosed``."""
    closed = asyncio.Event()

    async def app(_scope: HttpScope, protocol: HttpProtocol) -> None:
        transport = protocol.response_stream(200, [])
        try:
            while True:
                await transport.send_bytes(b"x")
                await asyncio.sleep(0.002)
        except ProtocolClosed:
            closed.set()

    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    async with httpx2.AsyncClient() as client, client.stream("GET", server.url) as answer:
        await anext(answer.aiter_bytes())
    async with asyncio.timeout(5):
        await closed.wait()
    await server.stop(1)


async def test_a_cut_stream_breaks_the_connection(sim: Served) -> None:
    """The client gets the first events, and then an error instead of an end."""
    got = bytearray()
    async with (
        httpx2.AsyncClient(headers={**OPENAI, "x-sim-fault": "cut=4"}) as client,
        client.stream("POST", sim.url + CHAT, json=chat(stream=True)) as answer,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            [got.extend(data) async for data in answer.aiter_bytes()]
    assert got.count(b"data: ") == 4
    assert b"[DONE]" not in got
    assert sim.simulator.calls[-1].outcome == "cut"


async def test_a_hanging_request_stays_until_the_client_gives_up(sim: Served) -> None:
    """No byte comes; the server lets go when the client does."""
    async with httpx2.AsyncClient(headers={**OPENAI, "x-sim-fault": "hang"}, timeout=0.1) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(sim.url + CHAT, json=chat())
    await until(lambda: sim.server.requests_open == 0)
    assert sim.simulator.calls[-1].outcome == "hang"


async def test_a_disconnect_in_the_middle_is_recorded() -> None:
    """A client that leaves a slow stream is recorded with the events it was sent."""
    async with serve(Simulator(pace=Pace(tokens_per_second=200))) as sim:
        async with (
            httpx2.AsyncClient(headers=OPENAI) as client,
            client.stream("POST", sim.url + CHAT, json=chat(stream=True)) as answer,
        ):
            await anext(answer.aiter_bytes())
        await until(lambda: sim.simulator.calls[-1].outcome == "disconnected")
        assert 0 < sim.simulator.calls[-1].events_sent < sim.simulator.calls[-1].events


async def test_what_arrives_has_the_digest_in_the_record(sim: Served) -> None:
    """The recorded digest is that of the bytes on the wire, whole and streamed."""

    async with httpx2.AsyncClient(headers=OPENAI) as client:
        for stream in (False, True):
            answer = await client.post(sim.url + CHAT, json=chat(stream=stream))
            call = sim.simulator.calls[-1]
            assert hashlib.sha256(answer.content).hexdigest() == call.body_sha256
            assert int(answer.headers["x-sim-call"]) == call.index


async def test_pace_is_kept(sim: Served) -> None:
    """A slow first token is slow on the wire too."""
    async with httpx2.AsyncClient(headers={**OPENAI, "x-sim-fault": "slow=120"}) as client:
        started = time.monotonic()
        await client.post(sim.url + CHAT, json=chat())
    assert 0.11 < time.monotonic() - started < 2


async def test_a_body_over_the_limit_is_refused(sim: Served) -> None:
    """A stated length over 64 MiB is refused before it is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.server.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: sim\r\ncontent-length: 99999999\r\n\r\n".encode())
    assert b" 413 " in await reader.readline()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


COMMAND = "import sys; from bursar.__main__ import main; sys.argv[1:1] = ['sim']; main()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(number: signal.Signals) -> None:
    """It prints the address and an example, answers, and ends with status 0 on SIGTERM and SIGINT."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--port", "0", "--seed", "9", "--faults", '{"fault": "503", "last": 0}'],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        first = process.stdout.readline()
        assert "(seed 9)" in first
        url = first.split(" on ")[1].split(" ")[0]
        with httpx2.Client(headers=OPENAI) as client:
            assert [client.post(url + CHAT, json=chat()).status_code for _ in range(2)] == [503, 200]
        process.send_signal(number)
        rest = process.stdout.read()
        process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 0
    assert f"curl {url}/v1/chat/completions" in rest
    assert "Stopped after 2 calls." in rest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--faults", "/no/such/file"], "No such file"),
        (["--faults", '{"fault": "explode"}'], "unknown fault 'explode'"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:4010"),
    ],
)
def test_the_command_explains_its_mistakes(arguments: list[str], says: str) -> None:
    """A wrong schedule or address is one clear line and a status other than 0."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


async def test_idle_connections_do_not_keep_others_out() -> None:
    """With more idle connections than the listening queue is long, a request is still answered."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 3_000:
        pytest.skip("this needs 3,000 open files, the limit (ulimit -n) is lower")

    async def app(scope: HttpScope, protocol: HttpProtocol) -> None:
        await protocol()
        protocol.response_bytes(200, [], b"here")

    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(1_200)]
    try:
        async with httpx2.AsyncClient() as client:
            assert (await client.get(server.url, timeout=5)).text == "here"
    finally:
        for _, writer in idle:
            writer.close()
        await server.stop(0.1)
