"""What of an MCP conversation costs money: sans I/O, message by message."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.doors.mcp.lines import Line, Lines
from bursar.doors.mcp.messages import answer_json, read_messages
from bursar.doors.mcp.metering import Conversation, Outcome, Refused, ServerName

NO = Refused("no money", {"budget": "b"})


def call(number: Any = 1, tool: str = "search", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, **params}}


def answer(number: Any = 1, **result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": {"content": [], **result}}


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def talk(name: str = "srv") -> Conversation[str]:
    return Conversation(ServerName(name))


def let_through(conversation: Conversation[str], *messages: dict[str, Any], now_s: float = 0.0) -> None:
    """Every message, each its own line, granted under its id."""
    for message in messages:
        heard = conversation.from_client(line(message))
        conversation.decided(heard, [each.id for each in heard.calls], now_s)


def ended(conversation: Conversation[str], message: Any, now_s: float = 0.0) -> list[tuple[str, Outcome]]:
    return [(each.granted, each.outcome) for each in conversation.from_server(line(message), now_s)]


# --- from the client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"not json\n",
        b"\n",
        b"[1, 2]\n",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\r\n',
        b'{"jsonrpc": "2.0", "id": 1, "result": {"roots": []}}\n',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}\n',
        b'{"id": 7, "method": 3}',
        b'\xff\xfe{"method":"tools/call"}\n',
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"}]\n',
    ],
)
def test_what_calls_no_tool_goes_on_byte_for_byte(data: bytes) -> None:
    """Requests, notifications, responses, batches and what is no JSON: untouched, and nothing is asked."""
    conversation = talk()
    heard = conversation.from_client(data)
    assert heard.calls == ()
    assert conversation.decided(heard, [], 0) == (data, ())


def test_a_tool_call_goes_on_byte_for_byte_once_it_is_granted() -> None:
    """Odd spacing, escapes and key order survive: nothing is written again."""
    data = (
        b'{ "id" : "\\u0061", "params": {"arguments":{"q":"\\u00e9"},"name":"sea\\u0072ch"}, "method":"tools\\/call"}\n'
    )
    conversation = talk()
    heard = conversation.from_client(data)
    assert [(each.id, each.tool) for each in heard.calls] == [('"a"', "srv.search")]
    assert conversation.decided(heard, ["granted"], 0) == (data, ())
    assert conversation.open_calls == 1


def test_a_refused_call_is_answered_and_does_not_go_on() -> None:
    """The client gets a tool's result that failed, with the refusal as its text and the figures in ``_meta``."""
    conversation = talk()
    heard = conversation.from_client(line(call("x")))
    onward, answers = conversation.decided(heard, [NO], 0)
    assert onward is None
    assert json.loads(answers[0]) == {
        "jsonrpc": "2.0",
        "id": "x",
        "result": {
            "content": [{"type": "text", "text": "no money"}],
            "isError": True,
            "resultType": "complete",
            "_meta": {"bursar/refusal": {"budget": "b"}},
        },
    }
    assert conversation.open_calls == 0


def test_of_a_batch_only_what_is_refused_stays_behind() -> None:
    """The other messages of a batch go on as they were, in order."""
    batch = [call(1), {"jsonrpc": "2.0", "method": "notifications/x"}, call(2, "other"), {"id": 3, "method": "ping"}]
    conversation = talk()
    heard = conversation.from_client(line(batch))
    assert [each.tool for each in heard.calls] == ["srv.search", "srv.other"]
    onward, answers = conversation.decided(heard, [NO, "granted"], 0)
    assert onward is not None
    assert json.loads(onward) == batch[1:]
    assert [json.loads(each)["id"] for each in answers] == [1]
    assert [granted for granted, _ in ended(conversation, answer(2))] == ["granted"]


@pytest.mark.parametrize("number", [None, "absent"])
def test_a_tool_call_without_an_id_is_not_passed_on(number: Any) -> None:
    """Nobody could say what became of it: it does not reach the server, and nothing is asked."""
    message = call(number)
    if number == "absent":
        del message["id"]
    conversation = talk()
    heard = conversation.from_client(line(message))
    assert heard.calls == ()
    assert conversation.decided(heard, [], 0) == (None, ())


def test_what_others_take_for_json_does_not_pass_unseen() -> None:
    """A call with NaN in it is no JSON, but servers run it: it is metered."""
    data = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"x":NaN}}}\n'
    conversation = talk()
    heard = conversation.from_client(data)
    assert [each.tool for each in heard.calls] == ["srv.search"]
    assert conversation.decided(heard, ["granted"], 0) == (data, ())


# --- from the server --------------------------------------------------------------------------------------------


def test_an_answer_ends_its_call_and_no_other() -> None:
    """Ids are told apart by type; the order of answers does not matter; a second answer ends nothing."""
    conversation = talk()
    let_through(conversation, call(1), call("1"), call(2), now_s=10.0)
    assert ended(conversation, answer("1"), 10.25) == [
        ('"1"', Outcome("ok", 250.0, b'{"content": []}')),
    ]
    assert ended(conversation, answer("1"), 11) == []
    assert [granted for granted, _ in ended(conversation, answer(2))] == ["2"]
    assert conversation.open_calls == 1


def test_a_failed_call_says_so_without_its_words() -> None:
    """What a tool says is its answer and is not stored; a protocol error is."""
    conversation = talk()
    let_through(conversation, call(1), call(2), call(3))
    [(_, failed)] = ended(conversation, answer(1, isError=True, content=[{"type": "text", "text": "secret"}]))
    assert (failed.status, failed.error, failed.billed) == ("error", "the tool says that it failed", True)
    [(_, broken)] = ended(conversation, {"id": 2, "error": {"code": -32603, "message": "boom"}})
    assert (broken.status, broken.error, broken.billed) == ("error", "-32603: boom", True)
    [(_, refused)] = ended(conversation, {"id": 3, "error": {"code": -32602, "message": "no such tool"}})
    assert (refused.status, refused.billed) == ("error", False)


def test_an_answer_that_asks_for_something_first_gives_the_call_back() -> None:
    """The client sends the request again with what was asked for: that one is the call."""
    conversation = talk()
    let_through(conversation, call(1))
    [(_, outcome)] = ended(conversation, answer(1, resultType="input_required"))
    assert not outcome.left


def test_a_cancelled_call_ends_at_once_and_what_comes_late_ends_nothing() -> None:
    """A cancellation names its request; the server may still answer."""
    conversation = talk()
    let_through(conversation, call(4), now_s=1)
    heard = conversation.from_client(line({"method": "notifications/cancelled", "params": {"requestId": 4}}))
    assert heard.cancels == ("4",)
    [one] = conversation.give_up(heard.cancels, "cancelled", "", 3)
    assert one.outcome == Outcome("cancelled", 2_000.0)
    assert ended(conversation, answer(4)) == []


def test_everything_open_ends_with_the_conversation() -> None:
    """Also two calls that a client gave the same id."""
    conversation = talk()
    let_through(conversation, call(1), call(1), call(2))
    closed = conversation.close("error", "gone", 1)
    assert [each.granted for each in closed] == ["1", "1", "2"]
    assert conversation.open_calls == 0


def test_requests_of_the_server_are_no_answers() -> None:
    """A server may ask with the id of a call that is under way: that does not end it."""
    conversation = talk()
    let_through(conversation, call(1))
    assert ended(conversation, {"id": 1, "method": "sampling/createMessage", "params": {}}) == []
    assert conversation.open_calls == 1


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        {"serverInfo": {"name": "weather", "version": "1"}},
        {"_meta": {"io.modelcontextprotocol/serverInfo": {"name": "weather"}}},
    ],
)
def test_a_server_is_called_as_it_calls_itself(result: dict[str, Any]) -> None:
    """Both generations of the protocol say it in a result; the first name stays; what somebody stated goes before."""
    for stated, full in (("", "weather.search"), ("mine", "mine.search")):
        conversation = Conversation[str](ServerName(stated))
        ended(conversation, {"id": 0, "result": result})
        ended(conversation, {"id": 0, "result": {"serverInfo": {"name": "other"}}})
        assert conversation.from_client(line(call())).calls[0].tool == full
    assert Conversation[str](ServerName()).from_client(line(call())).calls[0].tool == "mcp.search"


# --- answers as data --------------------------------------------------------------------------------------------


def test_an_answer_is_its_structured_content_or_its_one_json_text() -> None:
    """Numbers keep their digits; prose, several parts and nothing are no data."""
    text = {"type": "text", "text": '{"credits": 0.1000000000000000055}'}
    exact = {"credits": Decimal("0.1000000000000000055")}
    assert answer_json(json.dumps({"content": [text]}).encode()) == exact
    assert answer_json(json.dumps({"content": [], "structuredContent": {"pages": 3}}).encode()) == {"pages": 3}
    for content in ([], [text, text], [{"type": "text", "text": "prose"}], [{"type": "image", "data": ""}], "text"):
        assert answer_json(json.dumps({"content": content}).encode()) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever comes, reading it ends in messages or in none."""
    conversation = talk()
    heard = conversation.from_client(data)
    assert conversation.decided(heard, ["granted"] * len(heard.calls), 0)[1] == ()
    assert isinstance(conversation.from_server(data, 0), list)
    assert isinstance(read_messages(b"[" + data + b"]"), tuple)


# --- lines ------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 40))
def test_lines_come_out_as_they_went_in(chunks: list[bytes], longest: int) -> None:
    """Cut anywhere: joined they are the stream, whole lines end in LF and are not too long, pieces say that they are."""
    lines = Lines(longest)
    found = [each for chunk in chunks for each in lines.feed(chunk)] + lines.rest()
    stream = b"".join(chunks)
    assert b"".join(each.data for each in found) == stream
    whole = [each for each in found if each.whole]
    assert all(len(each.data) <= longest for each in whole)
    assert all(each.data.count(b"\n") <= 1 for each in whole)
    if all(len(part) < longest for part in stream.split(b"\n")):
        assert [each.data for each in found] == [part + b"\n" for part in stream.split(b"\n")[:-1]] + (
            [rest] if (rest := stream.rpartition(b"\n")[2]) else []
        )
        assert len(whole) == len(found)


def test_a_long_line_comes_in_pieces_and_the_next_one_whole() -> None:
    """Only the first piece is marked as the first."""
    lines = Lines(4)
    assert lines.feed(b"ab\nabcdef") == [Line(b"ab\n"), Line(b"abcdef", whole=False)]
    assert lines.feed(b"gh\nxy\n") == [Line(b"gh\n", whole=False, first=False), Line(b"xy\n")]
    assert lines.rest() == []
