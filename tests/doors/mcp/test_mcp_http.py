"""Streamable HTTP through the proxy, with the official client and server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_house import CountingPurse, HttpServers, free_port, proxied, until

from bursar.adapters.http_server import HttpServer
from bursar.doors.mcp.metering import Call, Refused
from bursar.engine.rsgi import HttpProtocol, HttpScope

pytestmark = pytest.mark.xdist_group("mcp-http")

MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])
KINDS = pytest.mark.parametrize("flags", [(), ("json",), ("stateless",), ("json", "stateless")], ids=" ".join)


@MODES
@KINDS
async def test_what_a_tool_answers_comes_through_and_is_settled(
    servers: HttpServers, mode: str, flags: tuple[str, ...]
) -> None:
    """Both generations of the protocol, JSON and event streams, with and without sessions."""
    purse = CountingPurse()
    url, log = servers.get(*flags)
    async with proxied(url, purse) as here, Client(here, mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"search", "scan", "wait"}
        found = await client.call_tool("search", {"query": "tea"})
        assert found.content[0].text == "found tea"
        scanned = await client.call_tool("scan", {"pages": 3})
        assert scanned.structured_content == {"pages": 3, "metadata": {"costUsd": 0.0125}}
        failed = await client.call_tool("fail", {})
        assert failed.is_error
        progress: list[float] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.append(done)

        await client.call_tool("wait", {"seconds": 0.05}, progress_callback=note)
    assert purse.statuses() == [
        ("shop.search", "ok"), ("shop.scan", "ok"), ("shop.fail", "error"), ("shop.wait", "ok"),
    ]  # fmt: skip
    assert log.ran() == ["search", "scan", "fail", "wait", "waited"]
    scan = json.loads(purse.ended[1][1].body or b"")
    assert scan["structuredContent"]["pages"] == 3
    assert purse.ended[3][1].latency_ms >= 50
    if "json" not in flags:
        assert progress == [1.0]


@MODES
async def test_of_a_hundred_calls_at_once_exactly_as_many_as_there_is_money_for_reach_the_server(
    servers: HttpServers, mode: str
) -> None:
    """The others see the refusal as the tool's own failure, with its figures, and never reach the server."""
    purse = CountingPurse(room=10)
    url, log = servers.get()
    async with proxied(url, purse) as here, Client(here, mode=mode) as client:
        found = await asyncio.gather(*(client.call_tool("search", {"query": str(i)}) for i in range(100)))
    refused = [each for each in found if each.is_error]
    assert len(refused) == 90
    assert {each.content[0].text for each in refused} == {"there is no more money"}
    assert refused[0].meta["bursar/refusal"] == {"budget": "test", "left": 0}
    assert log.ran() == ["search"] * 10
    assert purse.statuses() == [("shop.search", "ok")] * 10


@pytest.mark.parametrize("flags", [(), ("json",)], ids=["events", "json"])
async def test_a_large_answer_comes_through_whole(servers: HttpServers, flags: tuple[str, ...]) -> None:
    """Five megabytes, and the size is what the result has."""
    purse = CountingPurse()
    url, _ = servers.get(*flags)
    async with proxied(url, purse) as here:
        transport = streamable_http_client(here, max_sse_event_size=None)
        async with Client(transport, mode="legacy") as client:
            found = await client.call_tool("large", {"size": 5_000_000})
    assert len(found.content[0].text) == 5_000_000
    assert len(purse.ended[0][1].body or b"") > 5_000_000


@MODES
async def test_a_cancelled_call_is_settled_as_cancelled(servers: HttpServers, mode: str) -> None:
    """By a notification before 2026-07-28, by closing the connection from then on."""
    purse = CountingPurse()
    url, log = servers.get()
    async with proxied(url, purse) as here, Client(here, mode=mode) as client:
        await client.call_tool("search", {"query": "first"})
        with pytest.raises(MCPError):
            await client.call_tool("wait", {"seconds": 30}, read_timeout_seconds=0.5)
        await until(lambda: len(purse.ended) == 2)
        assert purse.statuses()[1] == ("shop.wait", "cancelled")
        assert purse.ended[1][1].latency_ms < 5_000
        assert not (await client.call_tool("search", {"query": "after"})).is_error
    assert "waited" not in log.ran()


def a_call(number: Any = 1, tool: str = "search", **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


async def test_a_client_that_goes_away_does_not_stop_the_bill(servers: HttpServers) -> None:
    """Before 2026-07-28 going away is no cancellation: the tool goes on, and is settled when it is done."""
    purse = CountingPurse()
    url, log = servers.get("stateless")
    async with proxied(url, purse) as here, httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(here, json=a_call(tool="wait", seconds=1), headers=HEADERS, timeout=0.4)
        await until(lambda: bool(purse.ended))
        assert purse.statuses() == [("host.wait", "ok")]
        assert log.ran() == ["wait", "waited"]


async def test_a_server_that_cannot_be_reached_costs_nothing() -> None:
    """The request provably never left: what was held is given back, and the client is told why."""
    purse = CountingPurse()
    async with proxied(f"http://127.0.0.1:{free_port()}/mcp", purse) as here, httpx2.AsyncClient() as client:
        answer = await client.post(here, json=a_call("x"), headers=HEADERS)
    assert answer.status_code == 502
    assert answer.json()["id"] == "x"
    assert "cannot be reached" in answer.json()["error"]["message"]
    [(_, outcome)] = purse.ended
    assert not outcome.left


async def test_a_server_that_breaks_off_is_settled(servers: HttpServers) -> None:
    """Nobody knows what the tool did: the call is charged as one that failed."""
    purse = CountingPurse()
    url, _ = servers.get("stateless")
    async with proxied(url, purse) as here, httpx2.AsyncClient() as client:
        answer = await client.post(here, json=a_call(tool="leave", code=3), headers=HEADERS)
        assert answer.status_code in (200, 502)
    servers.stop("stateless")
    [(tool, outcome)] = purse.ended
    assert tool == "host.leave"
    assert outcome.status in ("error", "cut")
    assert outcome.left
    assert outcome.billed


# --- what passes by, byte for byte ------------------------------------------------------------------------------


class Recorder:
    """A server that answers everything with the same, and keeps what it got."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.status, self.body = status, body
        self.headers = {"content-type": "application/json", **(headers or {})}
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        path = f"{scope.path}?{scope.query_string}" if scope.query_string else scope.path
        self.got.append((scope.method, path, dict(scope.headers.items()), await protocol()))
        protocol.response_bytes(self.status, list(self.headers.items()), self.body)


async def exchanged(recorder: Recorder, purse: CountingPurse, method: str, path: str, **more: Any) -> httpx2.Response:
    """One request through the proxy to the recorder."""
    server = HttpServer(recorder, "127.0.0.1", 0)
    await server.start()
    try:
        async with proxied(f"{server.url}/mcp", purse) as here, httpx2.AsyncClient() as client:
            return await client.request(method, here.removesuffix("/mcp") + path, **more)
    finally:
        await server.stop(0)


async def test_bodies_headers_and_paths_go_through_as_they_are() -> None:
    """Session, version, authorization and odd spacing; another path of the origin as well."""
    body = b'{ "id" : 1,"method":"tools/call" , "params":{"name":"a\\u0062"}}'
    recorder = Recorder(200, {"mcp-session-id": "s1"}, b'{ "id":1, "result" : {"content":[]} }')
    headers = {**HEADERS, "authorization": "Bearer x", "mcp-protocol-version": "2025-11-25", "x-own": "1"}
    purse = CountingPurse()
    answer = await exchanged(recorder, purse, "POST", "/mcp?a=%2F1", content=body, headers=headers)
    assert (answer.content, answer.headers["mcp-session-id"]) == (recorder.body, "s1")
    [(method, path, got, sent)] = recorder.got
    assert (method, path, sent) == ("POST", "/mcp?a=%2F1", body)
    assert {name: got.get(name) for name in headers} == headers
    assert purse.statuses() == [("host.ab", "ok")]
    await exchanged(other := Recorder(404), purse, "GET", "/.well-known/oauth-protected-resource")
    assert other.got[0][1] == "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(("status", "billed"), [(307, False), (401, False), (404, False), (500, True), (202, True)])
async def test_an_answer_that_is_none_ends_the_call(status: int, billed: bool) -> None:
    """Refused or moved before a tool ran costs nothing; what failed later may have cost something."""
    purse = CountingPurse()
    recorder = Recorder(status, body=b"{}")
    answer = await exchanged(recorder, purse, "POST", "/mcp", json=a_call(), headers=HEADERS)
    assert answer.status_code == status
    [(_, outcome)] = purse.ended
    assert (outcome.status, outcome.error, outcome.billed) == ("error", f"HTTP {status}", billed)


async def test_a_redirect_within_the_origin_leads_here_again() -> None:
    """Otherwise a client would follow it around the proxy."""
    recorder, purse = Recorder(307), CountingPurse()
    server = HttpServer(recorder, "127.0.0.1", 0)
    await server.start()
    recorder.headers["location"] = f"{server.url}/mcp/"
    async with proxied(f"{server.url}/mcp", purse) as here, httpx2.AsyncClient() as client:
        answer = await client.post(here, json={"id": 1, "method": "ping"}, headers=HEADERS)
    await server.stop(0)
    assert answer.headers["location"] == f"{here}/"


async def test_of_a_batch_the_refused_calls_are_answered_beside_the_others() -> None:
    """One answer holds both: ours and the server's."""
    recorder = Recorder(body=b'[{"id":1,"result":{"content":[]}}]')
    purse = CountingPurse(room=1)
    answer = await exchanged(recorder, purse, "POST", "/mcp", json=[a_call(1), a_call(2)], headers=HEADERS)
    assert json.loads(recorder.got[0][3]) == [a_call(1)]
    assert {each["id"]: each["result"].get("isError") for each in answer.json()} == {1: None, 2: True}
    alone = await exchanged(Recorder(), purse, "POST", "/mcp", json=[a_call(7)], headers=HEADERS)
    assert [each["id"] for each in alone.json()] == [7]


async def test_pages_of_other_origins_cannot_spend() -> None:
    """A browser says where a request comes from; only this machine may."""
    recorder, purse = Recorder(body=b'{"id":1,"result":{}}'), CountingPurse()
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 200)):
        headers = {**HEADERS, "origin": origin}
        answer = await exchanged(recorder, purse, "POST", "/mcp", json=a_call(), headers=headers)
        assert answer.status_code == status
    assert len(recorder.got) == 1


async def test_an_answer_that_another_stream_brings_ends_the_call() -> None:
    """A stream that ends early may be taken up by a GET of its session; when that never comes the call is cut."""
    purse = CountingPurse()

    async def early(scope: HttpScope, protocol: HttpProtocol) -> None:
        await protocol()
        stream = protocol.response_stream(200, [("content-type", "text/event-stream")])
        if scope.method == "GET":
            data = b'id: 2\nevent: message\ndata: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}\n\n'
            await stream.send_bytes(data)
        else:
            await stream.send_bytes(b"id: 1\ndata:\n\n")

    server = HttpServer(early, "127.0.0.1", 0)
    await server.start()
    try:
        async with proxied(f"{server.url}/mcp", purse) as here, httpx2.AsyncClient() as client:
            session = {**HEADERS, "mcp-session-id": "s"}
            await client.post(here, json=a_call(1), headers=session)
            assert purse.ended == []
            taken_up = await client.get(here, headers={**session, "last-event-id": "1"})
            assert b'"result"' in taken_up.content
            assert purse.statuses() == [("host.search", "ok")]
            await client.post(here, json=a_call(2), headers=HEADERS)  # without a session nobody can take it up
            assert purse.statuses()[1:] == [("host.search", "cut")]
            await client.post(here, json=a_call(3), headers=session)
        assert purse.statuses()[2:] == [("host.search", "cancelled")], "the proxy ended before it was taken up"
    finally:
        await server.stop(0)


async def test_a_session_stays_one_while_a_call_waits_for_its_money() -> None:
    """A request that comes and goes in the meantime does not part the call from the stream that brings its answer."""

    class SlowPurse(CountingPurse):
        async def begin(self, call: Call, /) -> str | Refused:
            await asyncio.sleep(0.3)
            return await super().begin(call)

    purse, streams = SlowPurse(), asyncio.Event()

    async def answering(scope: HttpScope, protocol: HttpProtocol) -> None:
        body = await protocol()
        if scope.method == "GET":
            stream = protocol.response_stream(200, [("content-type", "text/event-stream")])
            await streams.wait()
            await stream.send_bytes(b'data: {"id":1,"result":{}}\n\n')
        elif b"ping" in body:
            protocol.response_bytes(200, [("content-type", "application/json")], b'{"id":2,"result":{}}')
        else:
            protocol.response_stream(200, [("content-type", "text/event-stream")])
            streams.set()

    server = HttpServer(answering, "127.0.0.1", 0)
    await server.start()
    try:
        async with proxied(f"{server.url}/mcp", purse) as here, httpx2.AsyncClient() as client:
            session = {**HEADERS, "mcp-session-id": "s"}
            call = asyncio.ensure_future(client.post(here, json=a_call(1), headers=session))
            await asyncio.sleep(0.1)
            await client.post(here, json={"id": 2, "method": "ping"}, headers=session)
            assert b"result" in (await client.get(here, headers=session)).content
            await call
            assert purse.statuses() == [("host.search", "ok")]
    finally:
        await server.stop(0)
