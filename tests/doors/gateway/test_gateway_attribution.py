"""Who a call is for, from everything a client may say; and nothing it says can make the call fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from house import CHAT, GENERATE, MESSAGES, STREAMS, WHOLE, Ask, House, make_key, send_raw, task_name

from bursar.core.scopes import Scope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-attribution")]

CHAT_ASK, _, MESSAGES_ASK, GENERATE_ASK = WHOLE
COLUMNS = ("org", "team", "project", "user", "agent", "session", "task", "parent_task")
CLAUDE_CODE = f"user_{'ab' * 32}_account_0aa1-22_session_5e55-10n"
CLAUDE_CODE_JSON = json.dumps({"device_id": "d1", "account_uuid": "0aa1-22", "session_id": "5e55-10n"})


async def last(house: House, ask: Ask, content: Any = None, **headers: str) -> dict[str, Any]:
    """The row of this one call, found by its id."""
    answer = await house.ask(ask, content=None if content is None else json.dumps(content).encode(), **headers)
    assert answer.status_code == 200, answer.text
    (row,) = [row for row in house.rows() if row["call_id"] == answer.headers["x-bursar-call-id"]]
    return row


@pytest.mark.parametrize("ask", [*WHOLE, *STREAMS], ids=str)
async def test_every_header_has_its_column(house: House, ask: Ask) -> None:
    """All eight columns and labels by header, in every dialect, whole and streamed."""
    headers = {f"x_bursar_{column}": f"the {column}" for column in COLUMNS}
    row = await last(house, ask, x_bursar_label_tier="gold", x_bursar_label_env="prod", **headers)
    assert {column: row[column] for column in COLUMNS} == {column: f"the {column}" for column in COLUMNS}
    assert row["labels"] == {"tier": "gold", "env": "prod"}


async def test_baggage_names_the_same_columns(house: House) -> None:
    """W3C baggage: our names and OpenTelemetry's, percent-encoded values, properties ignored, the rest left alone."""
    baggage = (
        "bursar.task=t%201,bursar.team = search;secret=1 ,gen_ai.agent.name=planner,session.id=s1,enduser.id=ann%40x,"
        "bursar.label.env=prod,other.vendor=7,broken,=x"
    )
    row = await last(house, CHAT_ASK, baggage=baggage)
    said = [row[column] for column in ("task", "team", "agent", "session", "user")]
    assert said == ["t 1", "search", "planner", "s1", "ann@x"]
    assert row["labels"] == {"env": "prod"}


@pytest.mark.parametrize(
    ("header", "ids"),
    [
        (
            "00-" + "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"),
        ),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01", ("", "")),
        ("nonsense", ("", "")),
        ("x" * 10_000, ("", "")),
    ],
)
async def test_traceparent(house: House, header: str, ids: tuple[str, str]) -> None:
    """Trace and span ids are kept where the header is well formed, and left out where it is not."""
    row = await last(house, CHAT_ASK, traceparent=header)
    assert (row["trace_id"], row["span_id"]) == ids


async def test_openai_user_and_metadata(house: House) -> None:
    """The body's ``user`` and ``metadata``: known keys are columns, the others labels."""
    metadata = {
        "task_id": "t9",
        "session_id": "s9",
        "agent": "coder",
        "team": "core",
        "project": "p",
        "color": "red",
        "n": 5,
    }
    row = await last(house, CHAT_ASK, {**CHAT, "user": "ann", "metadata": metadata})
    said = {column: row[column] for column in ("user", "task", "session", "agent", "team", "project")}
    assert said == {"user": "ann", "task": "t9", "session": "s9", "agent": "coder", "team": "core", "project": "p"}
    assert row["labels"] == {"color": "red", "n": "5"}


@pytest.mark.parametrize(
    ("user_id", "user", "session"),
    [
        ("customer-7", "customer-7", ""),
        (CLAUDE_CODE, "0aa1-22", "5e55-10n"),
        (CLAUDE_CODE_JSON, "0aa1-22", "5e55-10n"),
        ('{"broken', "", ""),
    ],
)
async def test_anthropic_user_id(house: House, user_id: str, user: str, session: str) -> None:
    """``metadata.user_id``: a plain value is the user; Claude Code's blob is taken apart and never kept."""
    row = await last(house, MESSAGES_ASK, {**MESSAGES, "metadata": {"user_id": user_id}})
    assert (row["user"], row["session"]) == (user, session)


async def test_gemini_labels(house: House) -> None:
    """Gemini's ``labels`` are read like metadata."""
    row = await last(house, GENERATE_ASK, {**GENERATE, "labels": {"team": "maps", "env": "dev"}})
    assert (row["team"], row["labels"]) == ("maps", {"env": "dev"})


async def test_nearer_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header before baggage before body before the key's defaults, column by column and label by label."""
    scope = Scope(team="of key", user="of key", agent="of key", session="of key", labels=(("a", "key"), ("d", "key")))
    key = make_key(house.path, task_name(), scope)
    monkeypatch.setattr("bursar.doors.gateway.auth._provider_key", lambda rule: [("authorization", "Bearer sk-real")])
    metadata = {"session_id": "of body", "agent": "of body", "task": "of body", "a": "body", "b": "body", "c": "body"}
    row = await last(
        house,
        CHAT_ASK,
        {**CHAT, "user": "of body", "metadata": metadata},
        authorization=f"Bearer {key}",
        baggage="bursar.agent=of baggage,bursar.task=of baggage,bursar.label.a=baggage,bursar.label.b=baggage",
        x_bursar_task="of header",
        x_bursar_label_a="header",
    )
    said = {column: row[column] for column in ("task", "agent", "session", "user", "team")}
    assert said == {
        "task": "of header",
        "agent": "of baggage",
        "session": "of body",
        "user": "of body",
        "team": "of key",
    }
    assert row["labels"] == {"a": "header", "b": "baggage", "c": "body", "d": "key"}


async def test_a_pinned_column_cannot_be_changed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a key pins stands, whatever the caller says; what it only gives by default can be said otherwise."""
    name = task_name()
    key = make_key(house.path, name, Scope(team="search", user="bot"), pinned=("team",))
    monkeypatch.setattr("bursar.doors.gateway.auth._provider_key", lambda rule: [("authorization", "Bearer sk-real")])
    row = await last(
        house,
        CHAT_ASK,
        authorization=f"Bearer {key}",
        x_bursar_team="other",
        x_bursar_user="ann",
        baggage="bursar.team=third",
    )
    assert (row["team"], row["user"], row["key"]) == ("search", "ann", name)


@pytest.mark.parametrize("ask", [CHAT_ASK, STREAMS[2]], ids=str)
async def test_hostile_values_never_fail_a_call(house: House, ask: Ask) -> None:
    """10 kB values are cut to 256 characters, 80 labels to 32, an endless baggage to what fits; the call goes through."""
    labels = {f"x_bursar_label_l{number:03}": "v" for number in range(80)}
    row = await last(
        house,
        ask,
        x_bursar_user="u" * 10_000,
        x_bursar_agent="'; DROP TABLE attempt; --",
        x_bursar_team="",
        x_bursar_unknown="ignored",
        baggage=",".join(f"k{number}=v" for number in range(3000)) + ",bursar.task=late",
        **labels,
    )
    assert row["user"] == "u" * 256
    assert row["agent"] == "'; DROP TABLE attempt; --"
    assert (row["team"], row["task"]) == ("", "")
    assert len(row["labels"]) == 32
    many = await last(house, ask, baggage=",".join(f"bursar.label.l{number}=v" for number in range(100)))
    assert len(many["labels"]) == 32


async def test_hostile_bodies_never_fail_a_call(house: House) -> None:
    """Metadata of the wrong types, too many or too long entries, and control characters are cut or left out."""
    metadata = {f"k{number}": "v" * 10_000 for number in range(100)}
    row = await last(house, CHAT_ASK, {**CHAT, "user": "a\x00b\nc\u202ed", "metadata": metadata})
    assert row["user"] == "abcd"
    assert len(row["labels"]) == 32
    assert {len(value) for value in row["labels"].values()} == {256}
    for strange in (7, [], "text", {"a": {"b": 1}, "user_id": ["x"], "c": None, "d": True}):
        row = await last(house, CHAT_ASK, {**CHAT, "metadata": strange})
        assert (row["user"], row["labels"]) == ("", {})
    row = await last(house, MESSAGES_ASK, {**MESSAGES, "metadata": {"user_id": "\x1b[31m" + "x" * 10_000}})
    assert row["user"].startswith("[31mxxx")
    assert len(row["user"]) <= 256


async def test_control_characters_in_labels_are_left_out(house: House) -> None:
    """A label from the body is stored without what a terminal would act on."""
    row = await last(house, CHAT_ASK, {**CHAT, "metadata": {"co\x1blor": "re\x07d\x00"}})
    assert row["labels"] == {"color": "red"}


async def test_bytes_that_are_no_text_in_a_header(house: House) -> None:
    """Latin-1 and invalid UTF-8 in headers: the call goes through, or is refused as bad HTTP; the gateway lives on."""
    body = CHAT_ASK.content
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-aaaaaaaa\r\n"
    answer = await send_raw(
        house.port, head + b"x-bursar-task: caf\xe9 \xff\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert (await last(house, CHAT_ASK))["status"] == "ok"
