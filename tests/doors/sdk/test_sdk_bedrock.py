"""Calls of boto3's Bedrock clients, at an endpoint of our own."""

from __future__ import annotations

import base64
import gc
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, EventStreamError, ReadTimeoutError
from botocore.stub import Stubber
from sdk_room import Room, Script

import bursar
from bursar.doors.sdk import bedrock
from bursar.wire.eventstream import encode_frame

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-lite-v1:0"
PROFILE = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{CLAUDE}"
QUESTION: list[Any] = [{"role": "user", "content": [{"text": "How is the weather?"}]}]
INVOKE = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "Hi"}],
}

CONVERSE: dict[str, Any] = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Rain."}]}},
    "stopReason": "end_turn",
    "usage": {
        "inputTokens": 40,
        "outputTokens": 900,
        "totalTokens": 1440,
        "cacheReadInputTokens": 300,
        "cacheWriteInputTokens": 200,
    },
    "metrics": {"latencyMs": 12},
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Rain."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 2000, "output_tokens": 60},
}


def frame(kind: str, payload: dict[str, Any], name: str = ":event-type", message: str = "event") -> bytes:
    headers = {name: kind, ":content-type": "application/json", ":message-type": message}
    return encode_frame(headers, json.dumps(payload).encode())


def converse_events(deltas: int, usage: dict[str, int] | None = None, text: str = "word ") -> list[bytes]:
    """A ConverseStream of so many parts, padded as Bedrock does: botocore reads 64 KiB at once, that is 20 of them."""
    delta = {"contentBlockIndex": 0, "delta": {"text": text}, "p": "a" * 3000}
    return [
        frame("messageStart", {"role": "assistant"}),
        *[frame("contentBlockDelta", delta)] * deltas,
        frame("contentBlockStop", {"contentBlockIndex": 0}),
        frame("messageStop", {"stopReason": "end_turn"}),
        frame("metadata", {"usage": usage or CONVERSE["usage"], "metrics": {"latencyMs": 9}}),
    ]


def invoke_events() -> list[bytes]:
    """Anthropic's own events, as InvokeModelWithResponseStream wraps them."""
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {**MESSAGE, "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Rain."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 60}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10, "outputTokenCount": 60}},
    ]
    return [frame("chunk", {"bytes": base64.b64encode(json.dumps(each).encode()).decode()}) for each in events]


def stream(script: Script, events: list[bytes]) -> bytes:
    """Answer with a stream of these events. Its bytes."""
    script.headers, script.body = [("content-type", "application/vnd.amazon.eventstream")], events
    return b"".join(events)


def client(url: str, *, attempts: int = 1, read_timeout_s: float = 10.0, **options: Any) -> Any:
    """A client with credentials that are none."""
    retries: Any = {"total_max_attempts": attempts, "mode": "standard"}
    values: dict[str, Any] = {
        "region_name": "us-east-1",
        "aws_access_key_id": "AKIATEST",
        "aws_secret_access_key": "secret",
        "endpoint_url": url,
        "config": Config(retries=retries, read_timeout=read_timeout_s, connect_timeout=2),
        **options,
    }
    return boto3.client("bedrock-runtime", **values)


@pytest.fixture
def ask(closed_room: Room, script: Script) -> Iterator[Any]:
    """A client that was there before the door was opened."""
    script.body = json.dumps(CONVERSE).encode()
    made = client(script.url)
    closed_room.init()
    yield made
    made.close()


def price(body: Any, model: str = CLAUDE) -> int:
    amount = bursar.charge_response("bedrock", body, model=model).amount
    assert amount
    return amount


def url_of(operation: str, model: str = CLAUDE) -> str:
    return f"https://bedrock-runtime.us-east-1.amazonaws.com/model/{model}/{operation}"


# --- whole answers ----------------------------------------------------------------------------------------------


def test_converse_costs_what_charge_response_says(closed_room: Room, script: Script, ask: Any) -> None:
    """A client from before ``init`` and one from after it; the answer is the client's own."""
    after = client(script.url)
    with bursar.task("weather", user="u1", budget="1") as t:
        for each in (ask, after):
            answer = each.converse(modelId=CLAUDE, messages=QUESTION)
            assert answer["output"] == CONVERSE["output"]
    after.close()
    rows = closed_room.rows()
    assert [row.cost_nanousd for row in rows] == [price(CONVERSE)] * 2
    assert {(row.provider, row.operation, row.model_asked, row.status, row.door, row.user) for row in rows} == {
        ("aws", "converse", CLAUDE, "ok", "sdk", "u1")
    }
    assert {row.task for row in rows} == {t.id}
    assert t.spent * 10**9 == 2 * price(CONVERSE)
    assert closed_room.held() == 0


@pytest.mark.parametrize("model", [CLAUDE, CLAUDE.removeprefix("us."), PROFILE, NOVA])
def test_models_are_priced_by_region_and_profile(closed_room: Room, ask: Any, model: str) -> None:
    """As the response of the same model is."""
    ask.converse(modelId=model, messages=QUESTION)
    name = model.rpartition("/")[2]
    assert closed_room.row().cost_nanousd == price(CONVERSE, name)


def test_a_profile_of_the_users_own_hides_its_model(closed_room: Room, ask: Any) -> None:
    """What it costs is unknown, with the reason."""
    ask.converse(
        modelId="arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", messages=QUESTION
    )
    row = closed_room.row()
    assert row.cost_nanousd is None
    assert row.unpriced_reason


@pytest.mark.parametrize("how", ["read", "chunks", "lines", "context", "json", "into"])
def test_the_body_of_an_invoke_is_counted_while_it_is_read(
    closed_room: Room, script: Script, ask: Any, how: str
) -> None:
    """Every way to read gives the bytes that were sent, and one charge."""
    script.body = json.dumps(MESSAGE, indent=1).encode()
    body = ask.invoke_model(modelId=CLAUDE, body=json.dumps(INVOKE))["body"]
    match how:
        case "read":
            found = body.read()
        case "chunks":
            found = b"".join(body.iter_chunks(7))
        case "lines":
            found = b"\n".join(body.iter_lines())
        case "context":
            with body as raw:
                found = raw.read()
        case "into":
            buffer, found = bytearray(64), b""
            while size := body.readinto(buffer):
                found += buffer[:size]
        case _:
            assert json.load(body) == MESSAGE
            found = script.body
    assert found == script.body
    row = closed_room.row()
    assert (row.status, row.estimated) == ("ok", False)
    assert row.cost_nanousd == price(MESSAGE) == bursar.charge_response(url_of("invoke"), script.body).amount


def test_an_invoke_whose_body_states_nothing_is_charged_by_its_headers(
    closed_room: Room, script: Script, ask: Any
) -> None:
    """They are where Bedrock states the counts of other makers' models."""
    script.body = b'{"outputs": [{"text": "Rain."}]}'
    script.headers += [("x-amzn-bedrock-input-token-count", "40"), ("x-amzn-bedrock-output-token-count", "7")]
    request = json.dumps({"prompt": "Hi", "max_tokens": 10})
    ask.invoke_model(modelId=CLAUDE, body=request)["body"].read()
    usage = {"inputTokens": 40, "outputTokens": 7}
    assert closed_room.row().cost_nanousd == price({"output": {}, "usage": usage})


def test_a_body_from_a_file_is_sent_whole(closed_room: Room, script: Script, ask: Any) -> None:
    """Nothing of it is read before it leaves; its answer is charged all the same."""
    script.body = json.dumps(MESSAGE).encode()
    ask.invoke_model(modelId=CLAUDE, body=io.BytesIO(json.dumps(INVOKE).encode()))["body"].read()
    assert json.loads(script.seen[0].body) == INVOKE
    assert closed_room.row().cost_nanousd == price(MESSAGE)


def test_a_body_that_is_not_read_is_no_free_call(closed_room: Room, script: Script, ask: Any) -> None:
    """The provider has answered, and bills it."""
    script.body = json.dumps(MESSAGE).encode()
    ask.invoke_model(modelId=CLAUDE, body=json.dumps(INVOKE))["body"].close()
    row = closed_room.row()
    assert row.cost_nanousd
    assert row.estimated


# --- streams ----------------------------------------------------------------------------------------------------


def test_converse_stream_costs_what_its_bytes_say(closed_room: Room, script: Script, ask: Any) -> None:
    """The client gets every event."""
    data = stream(script, converse_events(20))
    with bursar.task("streamed", budget="1"):
        events = list(ask.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"])
    assert [next(iter(event)) for event in events][-2:] == ["messageStop", "metadata"]
    assert len(events) == len(converse_events(20))
    row = closed_room.row()
    assert (row.status, row.stream, row.estimated, row.operation) == ("ok", True, False, "converse")
    assert row.cost_nanousd == bursar.charge_response(url_of("converse-stream"), data).amount == price(CONVERSE)
    assert row.first_token_ms is not None
    assert closed_room.held() == 0


def test_an_invoke_stream_costs_what_its_bytes_say(closed_room: Room, script: Script, ask: Any) -> None:
    """Its events are the model maker's own."""
    data = stream(script, invoke_events())
    answer = ask.invoke_model_with_response_stream(modelId=CLAUDE, body=json.dumps(INVOKE))
    events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    assert events[-1]["type"] == "message_stop"
    row = closed_room.row()
    assert (row.status, row.stream, row.estimated) == ("ok", True, False)
    assert row.cost_nanousd == bursar.charge_response(url_of("invoke-with-response-stream"), data).amount
    assert row.cost_nanousd


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # urllib3's, of what is forgotten
@pytest.mark.parametrize("how", ["closed", "forgotten", "left and closed", "never read"])
def test_a_stream_left_early_is_charged_for_what_was_seen(
    closed_room: Room, script: Script, ask: Any, how: str
) -> None:
    """It is marked as estimated, and nothing stays held."""
    stream(script, converse_events(100))
    script.pause_s = 0.02
    with bursar.task("left", budget="1") as t:
        body = ask.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"]
        if how != "never read":
            for number, _ in enumerate(body):
                if number == 5:
                    break
        if "closed" in how:
            body.close()
        del body
        gc.collect()
    row = closed_room.row()
    assert (row.status, row.estimated) == ("cancelled", True)
    assert row.cost_nanousd
    assert t.spent * 10**9 == row.cost_nanousd
    assert closed_room.held() == 0


def test_an_error_in_a_stream_reaches_the_client_and_the_books(closed_room: Room, script: Script, ask: Any) -> None:
    """What had come until then is charged."""
    failure = frame("throttlingException", {"message": "slow down"}, ":exception-type", "exception")
    stream(script, [*converse_events(20)[:10], failure])
    with pytest.raises(EventStreamError):
        list(ask.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"])
    gc.collect()
    row = closed_room.row()
    assert (row.status, row.estimated) == ("cut", True)
    assert "throttlingException" in row.error
    assert row.cost_nanousd


def test_a_stream_that_breaks_off_is_charged_as_cut(closed_room: Room, script: Script, ask: Any) -> None:
    """Its last event never came."""
    stream(script, converse_events(20)[:10])
    list(ask.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"])
    row = closed_room.row()
    assert (row.status, row.estimated) == ("cut", True)
    assert row.cost_nanousd


@pytest.mark.parametrize(("limit", "status"), [("$5", "ok"), ("$0.08", "ended")])
def test_a_stream_that_outgrows_its_hold_asks_for_more_and_ends_cleanly_without(
    closed_room: Room, script: Script, limit: str, status: str
) -> None:
    """Without money it ends as if the model had reached its limit, in frames that botocore accepts."""
    closed_room.config.write_text(f"budgets:\n  s: {{match: {{team: writers}}, limit: {limit}, streams: extend}}\n")
    closed_room.init(team="writers")
    usage = {"inputTokens": 20, "outputTokens": 8000, "totalTokens": 8020}
    stream(script, converse_events(160, usage, "word " * 50))
    script.pause_s = 0.002
    made = client(script.url)
    events = list(made.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"])
    made.close()
    assert next(iter(events[-1])) == "metadata"
    reason = next(event["messageStop"]["stopReason"] for event in events if "messageStop" in event)
    row = closed_room.row()
    assert row.status == status
    assert reason == ("end_turn" if status == "ok" else "max_tokens")
    assert row.cost_nanousd is not None
    if status == "ended":
        assert row.estimated
        assert 0 < row.cost_nanousd < 80_000_000
        assert len(events) < 160
    assert closed_room.held() == 0


# --- what is sent -----------------------------------------------------------------------------------------------


def test_a_request_that_need_not_change_keeps_its_bytes(closed_room: Room, script: Script) -> None:
    """Path, body and the names of its headers are as without us."""
    script.body = json.dumps(CONVERSE).encode()
    made = client(script.url)
    made.converse(modelId=CLAUDE, messages=QUESTION)
    closed_room.init()
    made.converse(modelId=CLAUDE, messages=QUESTION)
    made.close()
    first, second = script.seen
    assert (first.path, first.body, first.header.keys()) == (second.path, second.body, second.header.keys())


def test_what_a_budget_changes_is_signed(closed_room: Room, script: Script) -> None:
    """Another model in the path and a lower cap in the body; the signature is of what is sent."""
    ladder = f"[{{at: 1%, model: {{'{CLAUDE}': '{NOVA}'}}}}, {{at: 1%, output_cap: 200}}]"
    closed_room.config.write_text(f"budgets:\n  f: {{match: {{team: f}}, limit: $10, ladder: {ladder}}}\n")
    closed_room.init(team="f")
    bursar.charge("spend", price="0.20")
    script.body = json.dumps(CONVERSE).encode()
    signed: list[Any] = []
    made = client(script.url)
    made.meta.events.register("before-send.bedrock-runtime", lambda request, **_: signed.append(request))
    made.converse(modelId=CLAUDE, messages=QUESTION, inferenceConfig={"maxTokens": 1000})
    made.close()
    (seen,) = script.seen
    assert seen.path == "/model/amazon.nova-lite-v1%3A0/converse"
    assert json.loads(seen.body)["inferenceConfig"]["maxTokens"] == 200
    assert signed[0].body == seen.body
    assert signed[0].url.endswith(seen.path)
    assert seen.header["content-length"] == str(len(seen.body))
    assert seen.header["authorization"].startswith("AWS4-HMAC-SHA256")
    row = closed_room.row(kind="model")
    assert (row.model_asked, row.cost_nanousd) == (CLAUDE, price(CONVERSE, NOVA))


def test_other_services_and_operations_are_untouched(closed_room: Room, script: Script, ask: Any) -> None:
    """A count of tokens costs nothing; another service is none of ours."""
    script.body = b'{"inputTokens": 3}'
    assert ask.count_tokens(modelId=CLAUDE, input={"converse": {"messages": QUESTION}})["inputTokens"] == 3
    script.body = b"{}"
    other = boto3.client(
        "lambda", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b", endpoint_url=script.url
    )
    other.invoke(FunctionName="f")["Payload"].read()
    other.close()
    assert closed_room.rows() == []


def test_a_stub_that_answers_in_its_place_costs_nothing(closed_room: Room, ask: Any) -> None:
    """Nothing was sent."""
    with Stubber(ask) as stub:
        stub.add_response("converse", CONVERSE)
        ask.converse(modelId=CLAUDE, messages=QUESTION)
    assert closed_room.rows() == []
    assert closed_room.held() == 0


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_a_refusal_is_raised_before_anything_is_sent(closed_room: Room, script: Script) -> None:
    """Past botocore's retries and every handler of an Exception; and nothing is held."""
    closed_room.init()
    made = client(script.url, attempts=4)
    calls = [
        lambda: made.converse(modelId=CLAUDE, messages=QUESTION),
        lambda: made.converse_stream(modelId=CLAUDE, messages=QUESTION),
        lambda: made.invoke_model(modelId=CLAUDE, body=json.dumps(INVOKE)),
        lambda: made.invoke_model_with_response_stream(modelId=CLAUDE, body=json.dumps(INVOKE)),
    ]
    for call in calls:
        with bursar.task("broke", budget="0.000001"), pytest.raises(bursar.BudgetExceeded) as caught:
            call()
        assert caught.value.code == "budget_exceeded"
    made.close()
    assert script.seen == []
    assert closed_room.rows() == []
    assert closed_room.held() == 0


def test_retries_of_botocore_are_one_call(closed_room: Room, script: Script) -> None:
    """Throttled to the end: one row, that costs nothing."""
    closed_room.init()
    script.status, script.body = 429, b'{"message": "slow down", "__type": "ThrottlingException"}'
    made = client(script.url, attempts=2)
    with bursar.task("throttled", budget="1"), pytest.raises(ClientError, match="slow down"):
        made.converse(modelId=CLAUDE, messages=QUESTION)
    made.close()
    assert len(script.seen) == 2
    row = closed_room.row()
    assert (row.status, row.http_status, row.cost_nanousd) == ("error", 429, 0)
    assert closed_room.held() == 0


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_connection_that_cannot_be_made_costs_nothing(closed_room: Room, attempts: int) -> None:
    """However often it was tried."""
    closed_room.init()
    made = client("http://127.0.0.1:9", attempts=attempts)
    with bursar.task("nobody", budget="1"), pytest.raises(EndpointConnectionError):
        made.converse(modelId=CLAUDE, messages=QUESTION)
    made.close()
    assert closed_room.rows() == []
    assert closed_room.held() == 0


def test_an_attempt_that_may_have_left_is_charged_although_the_last_did_not(closed_room: Room) -> None:
    """The first was sent and lost, the second found nobody any more."""
    closed_room.init()
    server = socket.create_server(("127.0.0.1", 0))

    def answer_nothing() -> None:
        connection, _ = server.accept()
        server.close()
        connection.recv(100)
        connection.close()

    thread = threading.Thread(target=answer_nothing)
    thread.start()
    made = client(f"http://127.0.0.1:{server.getsockname()[1]}", attempts=2)
    with bursar.task("lost", budget="1"), pytest.raises(EndpointConnectionError):
        made.converse(modelId=CLAUDE, messages=QUESTION)
    thread.join(5)
    made.close()
    row = closed_room.row()
    assert (row.status, row.estimated) == ("error", True)
    assert row.cost_nanousd
    assert closed_room.held() == 0


def test_an_answer_that_does_not_come_in_time_is_charged_by_estimate(closed_room: Room, script: Script) -> None:
    """It may have been made."""
    closed_room.init()
    script.delay_s = 0.6
    made = client(script.url, read_timeout_s=0.2)
    with pytest.raises(ReadTimeoutError):
        made.converse(modelId=CLAUDE, messages=QUESTION)
    made.close()
    row = closed_room.row()
    assert (row.status, row.estimated) == ("error", True)
    assert "ReadTimeoutError" in row.error
    assert row.cost_nanousd


@pytest.mark.parametrize("fault", ["outgoing", "Answer"])
def test_a_fault_of_ours_breaks_nothing(
    closed_room: Room, script: Script, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """In "observe" the call goes on, whatever fails beside it."""
    closed_room.init(mode="observe")
    script.body = json.dumps(CONVERSE).encode()

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(bedrock, fault, fail)
    made = client(script.url)
    assert made.converse(modelId=CLAUDE, messages=QUESTION)["stopReason"] == "end_turn"
    made.close()


def test_observed_calls_are_counted_and_never_refused(closed_room: Room, script: Script) -> None:
    """A budget that has nothing left does not stand in their way."""
    closed_room.init(mode="observe")
    stream(script, converse_events(3))
    made = client(script.url)
    with bursar.task("broke", budget="0.000001"):
        list(made.converse_stream(modelId=CLAUDE, messages=QUESTION)["stream"])
    made.close()
    assert closed_room.row().cost_nanousd == price(CONVERSE)


def test_threads_share_a_client(closed_room: Room, ask: Any) -> None:
    """Each call is charged once."""
    threads = [
        threading.Thread(target=lambda: [ask.converse(modelId=CLAUDE, messages=QUESTION) for _ in range(5)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [row.cost_nanousd for row in closed_room.rows()] == [price(CONVERSE)] * 40


def test_shutdown_leaves_the_library_as_it_was(closed_room: Room, script: Script) -> None:
    """Clients as well: no handler of ours stays with them."""
    before = BaseClient._make_request
    script.body = json.dumps(CONVERSE).encode()
    closed_room.init()
    closed_room.init()
    made = client(script.url)
    made.converse(modelId=CLAUDE, messages=QUESTION)
    assert BaseClient._make_request is not before
    bursar.shutdown()
    assert BaseClient._make_request is before
    assert not bedrock._watched
    made.converse(modelId=CLAUDE, messages=QUESTION)
    made.close()
    assert len(script.seen) == 2
    assert len(closed_room.rows()) == 1
