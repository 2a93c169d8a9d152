"""Keys: the client's own go on as they came, Bursar's are exchanged for the provider's, and none is kept anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from house import (
    CHAT,
    DIALECTS,
    GENERATE,
    GPT,
    HAIKU,
    KEY,
    MESSAGES,
    STREAMS,
    WHOLE,
    Ask,
    House,
    Script,
    gateway,
    make_key,
    revoke_key,
    scripted,
    task_name,
)

from bursar.config import ProviderSettings, Server, Settings
from bursar.core.scopes import Scope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-keys")]

OURS = {"openai": "sk-server-openai-secret", "anthropic": "sk-ant-server-secret", "google": "AIza-server-secret"}
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
SENT_AS = {
    "openai": ("authorization", f"Bearer {OURS['openai']}"),
    "anthropic": ("x-api-key", OURS["anthropic"]),
    "google": ("x-goog-api-key", OURS["google"]),
}
BEARER = {"content-type": "application/json"}


def settings_for(script: Script, **server: bool) -> Settings:
    base = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta", "groq": "/v1"}
    providers = {name: ProviderSettings(base_url=script.url + path) for name, path in base.items()}
    return Settings(server=Server(port=0, **server), providers=providers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def script() -> AsyncIterator[Script]:
    async with scripted() as served:
        yield served


@pytest.fixture(scope="module", autouse=True)
def _environment() -> object:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), OURS.values(), strict=True):
            patch.setenv(name, value)
        patch.delenv("GROQ_API_KEY", raising=False)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory, script: Script) -> AsyncIterator[House]:
    """A gateway with the server's own keys in its environment, and a provider that keeps what it is sent."""
    async with gateway(tmp_path_factory.mktemp("keys"), settings=settings_for(script)) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory, script: Script) -> AsyncIterator[House]:
    """The same, but only Bursar's keys count."""
    async with gateway(tmp_path_factory.mktemp("guarded"), settings=settings_for(script, require_keys=True)) as house:
        yield house


def with_key(ask: Ask, key: str) -> dict[str, str]:
    return {name: value.replace(KEY, key) for name, value in ask.headers.items()}


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_the_clients_own_key_goes_on_alone(plain: House, script: Script, ask: Ask) -> None:
    """Bring your own key: the provider sees it in its header, and no key of the server's."""
    await plain.ask(ask)
    header = script.seen[-1].header
    sent = {name: value for name, value in header.items() if name in KEY_HEADERS}
    assert sent == {name: value for name, value in ask.headers.items() if name in KEY_HEADERS}
    assert not [value for value in header.values() for secret in OURS.values() if secret in value]


@pytest.mark.parametrize("ask", [*DIALECTS, STREAMS[2]], ids=str)
async def test_a_virtual_key_is_exchanged(plain: House, script: Script, ask: Ask) -> None:
    """A key of Bursar's becomes the provider's own from the environment, and is booked by its name."""
    name = task_name()
    key = make_key(plain.path, name, Scope(team="search"))
    await plain.client.post(ask.target, headers=with_key(ask, key), content=ask.content)
    header = script.seen[-1].header
    assert {name: header[name] for name in KEY_HEADERS if name in header} == dict([SENT_AS[ask.provider]])
    assert not [value for value in header.values() if key in value]
    row = plain.rows()[-1]
    assert (row["key"], row["team"]) == (name, "search")


async def test_a_virtual_key_counts_wherever_it_is(plain: House, script: Script) -> None:
    """With two keys in one request Bursar's decides, and neither reaches the provider."""
    name = task_name()
    key = make_key(plain.path, name, Scope())
    body = json.dumps(MESSAGES).encode()
    both = {"authorization": "Bearer sk-stray", "x-api-key": key, "anthropic-version": "2023-06-01"}
    await plain.client.post("/v1/messages", headers=both, content=body)
    header = script.seen[-1].header
    assert (header.get("authorization"), header["x-api-key"]) == (None, OURS["anthropic"])
    assert plain.rows()[-1]["key"] == name


async def test_gemini_keys_leave_the_url(plain: House, script: Script) -> None:
    """``?key=`` becomes a header; what goes on as URL, and may be logged on the way, holds no key."""
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    body = json.dumps(GENERATE).encode()
    await plain.client.post(f"{path}?key={KEY}&alt=json&x=a%20b", content=body)
    assert script.seen[-1].query == "alt=json&x=a+b"
    assert script.seen[-1].header["x-goog-api-key"] == KEY
    ours = make_key(plain.path, task_name(), Scope())
    await plain.client.post(f"{path}?alt=json&key={ours}", content=body)
    assert script.seen[-1].query == "alt=json"
    assert script.seen[-1].header["x-goog-api-key"] == OURS["google"]


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_unknown_and_revoked_keys_are_refused(plain: House, script: Script, ask: Ask) -> None:
    """401 in the client's dialect, nothing is sent, nothing is booked; a revoked key stops counting within a second."""
    name = task_name()
    key = make_key(plain.path, name, Scope())
    assert (await plain.client.post(ask.target, headers=with_key(ask, key), content=ask.content)).status_code == 200
    revoke_key(plain.path, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bursar.adapters.keys._CHECK_EVERY_S", 0.0)
        served, rows = len(script.seen), len(plain.rows())
        for wrong in (key, "bursar_nobody", "bursar_"):
            answer = await plain.client.post(ask.target, headers=with_key(ask, wrong), content=ask.content)
            assert answer.status_code == 401
            error = answer.json()["error"]
            assert error["bursar"] == {"code": "unauthorized"}
            assert "bursar keys create" in error["message"]
            assert wrong == "bursar_" or wrong not in answer.text
    assert (len(script.seen), len(plain.rows())) == (served, rows)


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_keys_that_cannot_be_read_are_no_reason_to_fail(plain: House, script: Script, ask: Ask) -> None:
    """When the books cannot be read a key of ours is answered by 503 in the client's dialect, and nothing is sent."""
    served = len(script.seen)
    plain.books.connection.execute("ALTER TABLE virtual_key RENAME TO hidden")
    try:
        answer = await plain.client.post(
            ask.target, headers=with_key(ask, f"bursar_{task_name()}"), content=ask.content
        )
    finally:
        plain.books.connection.execute("ALTER TABLE hidden RENAME TO virtual_key")
    assert answer.status_code == 503
    assert answer.json()["error"]["bursar"]["code"] == "books_unavailable"
    assert len(script.seen) == served


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_required_keys_are_required(guarded: House, script: Script, ask: Ask) -> None:
    """With require_keys a client's own key, or none, is refused; free requests are no exception."""
    served = len(script.seen)
    bare = {name: value for name, value in ask.headers.items() if name not in KEY_HEADERS}
    for headers in (ask.headers, bare):
        answer = await guarded.client.post(ask.target, headers=headers, content=ask.content)
        assert answer.status_code == 401
        assert "server.require_keys" in answer.json()["error"]["message"]
    assert (await guarded.client.get("/v1/models", headers=ask.headers)).status_code == 401
    assert len(script.seen) == served
    key = make_key(guarded.path, task_name(), Scope())
    answer = await guarded.client.post(ask.target, headers=with_key(ask, key), content=ask.content)
    assert answer.status_code == 200


async def test_a_missing_provider_key_says_which(plain: House, script: Script) -> None:
    """A virtual key at a provider that the server has no key for: 401 that names the variable to set."""
    served = len(script.seen)
    key = make_key(plain.path, task_name(), Scope())
    body = json.dumps({**CHAT, "model": "groq/llama-3.1-8b-instant"}).encode()
    answer = await plain.client.post("/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, content=body)
    assert answer.status_code == 401
    assert "GROQ_API_KEY" in answer.json()["error"]["message"]
    assert len(script.seen) == served


async def test_no_secret_is_written_anywhere(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither books, nor ledger, nor logs, nor metrics, nor error texts hold a key: only a virtual key's digest is kept."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path_factory.mktemp("secrets")
    async with gateway(path) as house:
        key = make_key(path, "robot", Scope(team="core"))
        for ask in (*WHOLE, *STREAMS):
            for fault in ("cut=1", "500", ""):
                headers = {"x-sim-fault": fault} if fault else {}
                await house.client.post(ask.target, headers={**ask.headers, **headers}, content=ask.content)
            await house.client.post(ask.target, headers=with_key(ask, key), content=ask.content)
        await house.client.post(f"/v1beta/models/x:generateContent?key={KEY}", content=b"not json")
        said = (await house.client.get("/metrics")).text
        assert len(house.rows()) == 32
    secrets = [secret.encode() for secret in (KEY, key, *OURS.values())]
    files = [file for file in path.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"books.sqlite3", "ledger.duckdb"}
    for file in files:
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret in content], file.name
    ours = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert not [secret for secret in secrets if secret in (ours + said).encode()], (
        "the client library logs its URL itself"
    )
    assert GPT not in said
    assert HAIKU not in said
