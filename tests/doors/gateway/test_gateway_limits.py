"""Attacks and limits: whatever a client sends, it gets a clear answer, goes nowhere else, and the gateway lives on."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from house import DIALECTS, KEY, STREAMS, WHOLE, Ask, House, Script, gateway, scripted, send_raw, task_name

from bursar.config import ProviderSettings, Server, Settings
from bursar.core.errors import ConfigError
from bursar.server import check_address

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-limits")]

LIMIT = 100_000
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-aaaaaaaa\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def script() -> AsyncIterator[Script]:
    async with scripted() as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory, script: Script) -> AsyncIterator[House]:
    """A gateway with small limits before a scripted provider."""
    base = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta"}
    providers = {name: ProviderSettings(base_url=script.url + path) for name, path in base.items()}
    server = Server(port=0, body_bytes_max=LIMIT, body_timeout_s=1, concurrency_max=4, answer_bytes_max=50_000)
    async with gateway(tmp_path_factory.mktemp("limits"), settings=Settings(server=server, providers=providers)) as it:
        yield it


@pytest.fixture(autouse=True)
def _fresh(script: Script) -> None:
    fresh = Script()
    script.seen, script.status, script.headers, script.body = [], fresh.status, fresh.headers, fresh.body


async def alive(house: House) -> bool:
    return (await house.ask(WHOLE[0])).status_code == 200


# --- bodies -----------------------------------------------------------------------------------------------------


async def test_a_body_of_100_mb_is_refused_at_its_announcement(house: House, script: Script) -> None:
    """413 names the size, the limit and the setting, before a byte of the body is there; nothing is sent on."""
    answer = await send_raw(house.port, HEAD + b"content-length: 100000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert "100000000 bytes, the limit is server.body_bytes_max=100000" in error["message"]
    assert error["bursar"] == {"code": "body_too_large", "limit_bytes": LIMIT}
    assert script.seen == []


async def test_a_client_that_sends_all_100_mb_reads_the_refusal(house: House) -> None:
    """Most clients read no answer before they have sent everything: they get the 413, not a broken connection."""
    answer = await house.ask(WHOLE[2], content=bytes(100_000_000))
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"


async def test_a_body_without_length_is_counted(house: House, script: Script) -> None:
    """Chunked bodies are refused when they pass the limit, and pass below it."""

    async def pieces(count: int) -> AsyncIterator[bytes]:
        yield WHOLE[0].content[:-1] + b',"x":"'
        for _ in range(count):
            yield b"x" * 10_000
        yield b'"}'

    headers = WHOLE[0].headers
    small = await house.client.post(WHOLE[0].path, headers=headers, content=pieces(5))
    large = await house.client.post(WHOLE[0].path, headers=headers, content=pieces(200))
    assert (small.status_code, large.status_code) == (200, 413)
    assert [len(seen.body) for seen in script.seen] == [len(WHOLE[0].content) + 50_007]


async def test_a_length_beside_chunks_does_not_lift_the_limit(house: House, script: Script) -> None:
    """With both a length and chunks the length says nothing: the chunks are counted."""
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    answer = await send_raw(
        house.port, HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", *[chunk] * 30, b"0\r\n\r\n"
    )
    assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    assert script.seen == []


@pytest.mark.parametrize("length", [b"abc", b"-1", b"2\r\ncontent-length: 5", b"99999999999999999999"])
async def test_a_length_that_is_none_is_refused(house: House, script: Script, length: bytes) -> None:
    """A content-length that is no number, is negative, is there twice, or is absurd: 4xx, nothing is sent on."""
    answer = await send_raw(house.port, HEAD + b"content-length: " + length + b"\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 4")
    assert script.seen == []
    assert await alive(house)


async def test_a_client_that_falls_silent_is_not_waited_for(house: House, script: Script) -> None:
    """A body that stops coming: 408 that names the setting; while it waits, others are served."""
    waiting = asyncio.create_task(send_raw(house.port, HEAD + b'content-length: 50\r\n\r\n{"model":'))
    dripping = asyncio.create_task(send_raw(house.port, HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"))
    await asyncio.sleep(0.05)
    assert await alive(house)
    for answer in (await waiting, await dripping):
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["bursar"] == {"code": "body_timeout", "limit_s": 1}
    assert len(script.seen) == 1


async def test_a_client_that_leaves_within_its_body_sends_nothing_on(house: House, script: Script) -> None:
    """Half a body is no request, even where the half can be read as JSON."""
    for framing in (b"content-length: 500\r\n\r\n{}", b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(HEAD + framing)
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.05)
    assert script.seen == []
    assert await alive(house)


BROKEN: list[tuple[bytes, str]] = [
    (b"not json", ""),
    (b"", ""),
    (b"[]", ""),
    (b"\xff\xfe\x00", ""),
    (b"[" * 90_000, ""),
    (b'{"model": 5}', "model"),
    (b'{"messages": []}', "model"),
    (b'{"model": "m", "stream": "yes"}', "stream"),
    (b'{"model": "m", "max_tokens": -1}', "max_tokens"),
    (b'{"model": "m", "max_tokens": 1e400}', ""),
]


@pytest.mark.parametrize(("body", "field"), BROKEN, ids=[body[:12].decode("latin-1") for body, _ in BROKEN])
@pytest.mark.parametrize("ask", [DIALECTS[0], WHOLE[1], DIALECTS[1]], ids=str)
async def test_a_body_that_cannot_be_understood_names_the_field(
    house: House, script: Script, ask: Ask, body: bytes, field: str
) -> None:
    """400 in the client's dialect with the field at fault; nothing is sent and nothing is booked."""
    if b"max_tokens" in body and ask is WHOLE[1]:
        body = body.replace(b"max_tokens", b"max_output_tokens")
        field = field and "max_output_tokens"
    rows = len(house.rows())
    answer = await house.ask(ask, content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["bursar"]["code"] == "bad_request"
    assert not field or error["bursar"]["field"] == field
    assert not field or field in error["message"]
    assert (script.seen, len(house.rows())) == ([], rows)


async def test_gemini_names_its_own_faults(house: House, script: Script) -> None:
    """Gemini's dialect: a body that is no JSON, and a path without a model."""
    for path, body in ((DIALECTS[2].path, b"{"), ("/v1beta/models/:generateContent", b"{}")):
        answer = await house.client.post(path, headers=DIALECTS[2].headers, content=body)
        assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert script.seen == []


# --- heads ------------------------------------------------------------------------------------------------------


async def test_large_headers_pass_and_endless_ones_do_not(house: House, script: Script) -> None:
    """20 kB in one header reach the provider; more than 100 headers are refused, and the gateway lives on."""
    answer = await house.ask(WHOLE[0], x_large="y" * 20_000)
    assert answer.status_code == 200
    assert script.seen[-1].header["x-large"] == "y" * 20_000
    many = b"".join(b"x-h%d: 1\r\n" % number for number in range(200))
    assert (await send_raw(house.port, HEAD + many + b"content-length: 2\r\n\r\n{}")).startswith(b"HTTP/1.1 431")
    assert await alive(house)


@pytest.mark.parametrize(
    "path",
    [
        "/openai/../../admin",
        "/openai/../admin",
        "/v1/../admin",
        "/v1/%2e%2e/%2E%2e/admin",
        "/v1/./models",
        "/..",
        "*",
        "/v1/%2e",
    ],
)
async def test_a_path_cannot_step_out(house: House, script: Script, path: str) -> None:
    """Steps up, encoded or not, are refused: a provider's base path is the root of what a client can reach."""
    answer = await send_raw(
        house.port, HEAD.replace(b"/v1/chat/completions", path.encode()) + b"content-length: 2\r\n\r\n{}"
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"field":"path"' in answer
    assert script.seen == []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("//evil.example/x", "/v1//evil.example/x"),
        ("/openai//evil.example/", "/v1//evil.example/"),
        ("/@evil.example/", "/v1/@evil.example/"),
        ("/:80@evil.example/", "/v1/:80@evil.example/"),
        ("/.evil.example/", "/v1/.evil.example/"),
        ("http://evil.example/v1/models", "/v1/models"),
        ("/v1/a%0d%0ax-evil:%201", "/v1/a\r\nx-evil: 1"),
        ("/v1/%5c%5cevil.example", "/v1/\\\\evil.example"),
        ("/v1/a%252fb", "/v1/a%2fb"),
        ("/http://evil.example/", "/v1/http://evil.example/"),
    ],
)
async def test_a_path_cannot_name_another_host(house: House, script: Script, target: str, path: str) -> None:
    """Whatever a path looks like, it goes to the provider's host, below its base path, in one piece."""
    head = HEAD.replace(b"/v1/chat/completions", target.encode())
    await send_raw(house.port, head + b"content-length: 2\r\n\r\n{}")
    (seen,) = script.seen
    assert seen.path == path
    assert seen.header["host"] == script.url.removeprefix("http://")
    assert "x-evil" not in seen.header


async def test_a_tunnel_is_refused(house: House, script: Script) -> None:
    """CONNECT opens no way to anywhere."""
    answer = await send_raw(house.port, b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")
    assert script.seen == []


async def test_a_host_header_changes_nothing(house: House, script: Script) -> None:
    """The client's Host, and what claims to be forwarded, do not decide where a call goes."""
    answer = await house.ask(WHOLE[0], host="evil.example", x_forwarded_host="evil.example")
    assert answer.status_code == 200
    assert script.seen[-1].header["host"] == script.url.removeprefix("http://")


async def test_a_redirect_is_passed_on_and_not_followed(house: House, script: Script) -> None:
    """A provider that redirects does not make the gateway carry a key to another host."""
    script.status, script.headers = 307, [("location", "http://evil.example/")]
    answer = await house.ask(WHOLE[0])
    assert (answer.status_code, answer.headers["location"]) == (307, "http://evil.example/")
    assert len(script.seen) == 1


async def test_answers_cannot_smuggle_headers(house: House) -> None:
    """What a client says about itself comes back in no header; our own headers hold ids and amounts only."""
    answer = await house.ask(WHOLE[0], x_bursar_task="a%0d%0aset-cookie: x=1", x_bursar_provider="openai")
    assert set(answer.headers) <= {
        "content-type", "server", "date", "x-bursar-call-id", "x-bursar-cost-usd", "x-bursar-rung", "content-length",
    }  # fmt: skip
    refused = await house.ask(WHOLE[0], x_bursar_provider="a\tset-cookie: x=1")
    assert refused.status_code == 400
    assert "set-cookie" not in refused.headers


# --- answers and numbers ----------------------------------------------------------------------------------------


async def test_an_answer_that_is_too_large_is_given_up(house: House, script: Script) -> None:
    """Past answer_bytes_max, stated or not: 502 that names the setting, charged by estimate."""
    task = task_name()
    script.body = b'{"x":"' + b"y" * 60_000 + b'"}'
    answer = await house.ask(WHOLE[0], x_bursar_task=task)
    assert answer.status_code == 502
    assert "server.answer_bytes_max (50000)" in answer.json()["error"]["message"]
    row = await house.row(task)
    assert (row["status"], row["estimated"]) == ("error", True)


async def test_a_lie_about_usage_stops_nobody(house: House, script: Script) -> None:
    """The largest count there can be, at a real price: unpriced with the reason, and the next call is served."""
    task = task_name()
    count = 2**53
    usage = {"prompt_tokens": count, "completion_tokens": 0, "total_tokens": count}
    script.body = json.dumps(
        {"id": "r", "object": "chat.completion", "model": "gpt-4", "choices": [], "usage": usage}
    ).encode()
    assert (await house.ask(WHOLE[0], x_bursar_task=task)).status_code == 200
    row = await house.row(task)
    assert row["cost_nanousd"] is None
    assert "not believed" in row["unpriced_reason"]
    script.body = b"{}"
    assert await alive(house)


async def test_a_model_name_has_a_limit(house: House, script: Script) -> None:
    """A name of kilobytes is refused before anything is held: it would be stored with every call."""
    body = json.dumps({**WHOLE[0].body, "model": "m" * 5_000}).encode()
    answer = await house.ask(WHOLE[0], content=body)
    assert answer.status_code == 400
    assert "5000 characters, at most 1000" in answer.json()["error"]["message"]
    assert script.seen == []


async def test_more_calls_than_allowed_are_told_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Past concurrency_max: 503 with Retry-After that names the setting; those within it are served; then all is well."""
    async with gateway(tmp_path_factory.mktemp("crowd"), concurrency_max=4) as crowd:
        answers = await asyncio.gather(*[crowd.ask(STREAMS[0], x_sim_fault="slow=150") for _ in range(10)])
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 6
        refusal = next(answer for answer in answers if answer.status_code == 503)
        assert refusal.headers["retry-after"] == "1"
        assert "server.concurrency_max=4" in refusal.json()["error"]["message"]
        assert (await crowd.ask(WHOLE[0])).status_code == 200
        assert len(crowd.rows()) == 5


# --- the console ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api/v1/spend", "/api/anything", "/console/x"])
async def test_the_console_answers_to_loopback_names_only(house: House, path: str) -> None:
    """A web page that points its own DNS name here (DNS rebinding) reads nothing."""
    for host in ("evil.example", "evil.example:4000", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
        assert (await send_raw(house.port, head)).startswith(b"HTTP/1.1 403"), host
    for host in ("localhost", f"127.0.0.1:{house.port}", "[::1]:4000", "LOCALHOST:1"):
        head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
        assert not (await send_raw(house.port, head)).startswith(b"HTTP/1.1 403"), host


async def test_beyond_loopback_the_console_needs_its_token(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """401 without the admin token; with it as bearer token or basic password the page opens. Health needs none."""
    monkeypatch.setattr("bursar.server._is_loopback", lambda host: False)
    async with gateway(tmp_path_factory.mktemp("open"), require_keys=True) as open_house:
        client = open_house.client
        token = open_house.data.admin_token()
        basic = base64.b64encode(f"any:{token}".encode()).decode()
        wrong: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Digest {token}"},
            {"authorization": "Basic !!!"},
            {"authorization": f"Bearer {KEY}"},
        ]
        for headers in wrong:
            answer = await client.get("/", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert token not in answer.text
        for value in (f"Bearer {token}", f"Basic {basic}"):
            assert (await client.get("/", headers={"authorization": value, "host": "any.example"})).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert (open_house.path / "admin.token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "gateway.example"])
async def test_an_open_address_needs_keys(host: str) -> None:
    """Others could spend through it: refused at the start, with the way out, unless keys are required."""
    with pytest.raises(ConfigError, match=r"server\.require_keys"):
        check_address(Settings(server=Server(host=host)))
    check_address(Settings(server=Server(host=host, require_keys=True)))


async def test_health_while_running(house: House) -> None:
    """Health, readiness and metrics answer; metrics have no names of clients in them."""
    await house.ask(WHOLE[0], x_bursar_user="ann-secret")
    health: Any = (await house.client.get("/healthz")).json()
    assert health == {"status": "ok"}
    assert (await house.client.get("/readyz")).json() == {"status": "ready"}
    metrics = (await house.client.get("/metrics")).text
    assert 'bursar_attempts_total{provider="openai",status="ok"}' in metrics
    assert "ann-secret" not in metrics
