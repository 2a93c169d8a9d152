"""What a provider's refusal means, by every recorded one; and when to come again, whatever the header says."""

from __future__ import annotations

import gzip
import json
import os
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.call import Reply
from bursar.core.failures import CAUSES, Cause
from bursar.core.prices import Reading
from bursar.core.usage import Usage
from bursar.wire.failures import cause_of, retry_after_s
from bursar.wire.openai_responses import DIALECT as RESPONSES

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data") / "wire"
NOW = 1_800_000_000.0
DAY_S = 86_400


def refused(status: int, body: bytes | str = b"") -> Cause | None:
    raw = body.encode() if isinstance(body, str) else body
    return cause_of(Reply(Reading(None), "error", http_status=status), raw)


# --- recorded refusals ------------------------------------------------------------------------------------------

# By host and a piece of the body: everything that the recorded providers have refused.
RECORDED: tuple[tuple[str, str, Cause], ...] = (
    ("api.voyageai.com", "Model nonexistent is not supported", "model"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "model identifier is invalid", "model"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "doesn't support counting tokens", "request"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "does not match any of the expected tags", "request"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "doesn't support the video content block", "request"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "doesn't support the s3Uri field", "request"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "Malformed input request", "request"),
    ("api.deepseek.com", "No tool output found", "request"),
    ("api.groq.com", "tool_use_failed", "invalid"),
    ("aiplatform.googleapis.com", "Cannot fetch content from the provided URL", "request"),
    ("api.openai.com", "Content blocks are expected to be", "request"),
    ("api.openai.com", "does not support 'system' with this model", "request"),
    ("api.openai.com", "without its required following item", "request"),
    ("api.openai.com", "model_not_found", "model"),
    ("generativelanguage.googleapis.com", "is not found for API version", "model"),
    ("api.anthropic.com", "not_found_error", "model"),
    ("openrouter.ai", "temporarily rate-limited upstream", "rate_limit"),
)


@lru_cache(maxsize=1)
def recorded() -> list[dict[str, Any]]:
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        return [row for row in map(json.loads, lines) if (row["status"] or 0) >= 400]


@pytest.mark.skipif(not (DATA / "interactions.jsonl.gz").exists(), reason=f"no recorded answers in {DATA}")
def test_every_recorded_refusal_means_what_the_table_says() -> None:
    used: set[int] = set()
    for row in recorded():
        text = json.dumps(row["response"]) if row["response"] is not None else row["response_text"] or ""
        found = [
            index
            for index, (host, piece, _) in enumerate(RECORDED)
            if host == row["host"] and piece.lower() in text.lower()
        ]
        assert found, (row["id"], row["host"], row["status"], text[:300])
        used.update(found)
        assert refused(row["status"], text) == RECORDED[found[0]][2], (row["id"], text[:300])
    assert used == set(range(len(RECORDED))), "a row of the table is about nothing"


# --- refusals as they are documented ----------------------------------------------------------------------------

TABLE: tuple[tuple[int, str, Cause], ...] = (
    (400, '{"error": {"code": "context_length_exceeded", "message": "This model\'s maximum context length is 8192"}}', "context"),
    (400, '{"error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000"}}', "context"),
    (400, '{"error": {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed"}}', "context"),
    (413, '{"error": {"message": "Request too large for model `llama` in organization"}}', "context"),
    (400, '{"message": "Input is too long for requested model."}', "context"),
    (400, '{"error": {"message": "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000"}}', "context"),
    (400, '{"code": "x", "error": "This model\'s maximum prompt length is 131072 but the request contains 136973 tokens."}', "context"),
    (400, '{"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it"}}', "context"),
    (400, '{"error": {"code": 400, "message": "too much", "type": "exceed_context_size_error"}}', "context"),
    (400, '{"error": {"message": "max_tokens is too large: 200000. This model supports at most 16384"}}', "request"),
    (413, '{"error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}', "request"),
    (429, '{"error": {"type": "insufficient_quota", "message": "You exceeded your current quota"}}', "quota"),
    (400, '{"error": {"message": "Your credit balance is too low to access the Anthropic API."}}', "quota"),
    (402, '{"error": {"message": "Insufficient Balance"}}', "quota"),
    (402, "", "quota"),
    (400, '{"error": {"code": "content_filter", "message": "content management policy"}}', "content_policy"),
    (400, '{"error": {"code": "content_policy_violation"}}', "content_policy"),
    (403, '{"error": {"message": "input was flagged by moderation"}}', "content_policy"),
    (429, '{"error": {"message": "Need more tokens? https://console.groq.com/settings/billing", "code": "rate_limit_exceeded"}}', "rate_limit"),
    (429, '{"error": {"message": "Limit: 3 / min. Please try again in 20s. Add one at https://x/account/billing."}}', "rate_limit"),
    (429, '{"error": {"message": "You exceeded your current quota", "details": [{"retryDelay": "12s"}]}}', "rate_limit"),
    (429, '{"error": {"message": "You exceeded your current quota, please check your plan and billing details."}}', "quota"),
    (429, '{"error": {"message": "Your prepayment credits are depleted. Manage your project\'s billing."}}', "quota"),
    (400, '{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "details": [{}]}}', "auth"),
    (400, '{"error": {"code": 400, "message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}', "auth"),
    (400, '{"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***99."}', "auth"),
    (401, '{"error": {"code": "invalid_api_key"}}', "auth"),
    (403, '{"error": {"status": "PERMISSION_DENIED"}}', "auth"),
    (404, '{"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}', "model"),
    (429, '{"error": {"type": "rate_limit_error"}}', "rate_limit"),
    (408, "", "timeout"), (504, "", "timeout"), (524, "", "timeout"), (425, "", "rate_limit"),
    (503, '{"error": {"status": "UNAVAILABLE"}}', "overload"), (529, '{"error": {"type": "overloaded_error"}}', "overload"),
    (500, "", "server"), (502, "<html>bad gateway</html>", "server"), (520, "", "server"),
    (400, '{"error": {"message": "temperature: must be at most 2"}}', "request"), (405, "", "request"), (409, "", "request"),
    (418, "", "request"), (422, '{"detail": "field required"}', "request"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "cause"), TABLE, ids=[f"{row[0]}-{row[2]}-{n}" for n, row in enumerate(TABLE)]
)
def test_a_refusal_means_what_its_status_and_its_words_say(status: int, body: str, cause: Cause) -> None:
    assert refused(status, body) == cause


@given(st.integers(400, 599), st.binary(max_size=5_000))
def test_any_refusal_has_a_cause(status: int, body: bytes) -> None:
    assert refused(status, body) in CAUSES


def test_only_the_beginning_of_a_body_is_looked_at() -> None:
    assert refused(400, b" " * 1_000_000 + b"context_length_exceeded") == "request"


# --- what is no refusal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "status", "cause"),
    [
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="stop"), "ok", None),
        (Reading(Usage(input_tokens=5, output_tokens=0), finish="stop"), "ok", "invalid"),
        (Reading(Usage(input_tokens=5, output_tokens=0), finish="tool_calls", tools=("look",)), "ok", None),
        (Reading(Usage(input_tokens=5)), "ok", None),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="content_filter"), "ok", "content_policy"),
        (Reading(Usage(input_tokens=5, output_tokens=0), finish="SAFETY"), "ok", "content_policy"),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="content_filtered"), "ok", "content_policy"),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="malformed_tool_use"), "ok", "invalid"),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="error"), "ok", "server"),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="insufficient_system_resource"), "ok", "overload"),
        (Reading(None, "the response states no usage", finish="failed", error="server_error: x"), "ok", "server"),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="max_output_tokens"), "ok", None),
        (Reading(Usage(input_tokens=5, output_tokens=3), finish="incomplete"), "ok", None),
        (Reading(None, "the body cannot be read: no JSON"), "ok", "invalid"),
        (Reading(None, "the response states no usage", finish="stop"), "ok", None),
        (Reading(Usage(input_tokens=5), error="overloaded_error: Overloaded"), "ok", "server"),
        (Reading(Usage(input_tokens=5), error="end of file"), "cut", "cut"),
        (Reading(None, error="the provider timed out: x"), "error", "timeout"),
        (Reading(None, error="the provider failed: reset"), "error", "cut"),
    ],
)
def test_of_what_came_only_what_nobody_can_use_is_a_failure(reading: Reading, status: Any, cause: Cause | None) -> None:
    assert cause_of(Reply(reading, status, http_status=200 if status != "error" else None)) == cause


@pytest.mark.parametrize(("status", "cause"), [("failed", "server"), ("incomplete", None), ("completed", None)])
def test_a_whole_response_may_say_that_it_failed(status: str, cause: Cause | None) -> None:
    """OpenAI's Responses say it with HTTP 200; one that is only cut is an answer."""
    error = {"code": "server_error", "message": "The model is overloaded"} if status == "failed" else None
    body = {
        "id": "r",
        "object": "response",
        "status": status,
        "error": error,
        "model": "gpt-5",
        "output": [],
        "usage": None,
    }
    assert cause_of(Reply(RESPONSES.read_response(body), "ok", http_status=200)) == cause


def test_what_never_left_failed_to_connect() -> None:
    assert cause_of(Reply(Reading(error="refused"), "error", left=False)) == "connect"


# --- Retry-After ------------------------------------------------------------------------------------------------


def wait(value: str, body: bytes = b"", name: str = "retry-after") -> float | None:
    return retry_after_s([("content-type", "text/plain"), (name, value)], body, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0), ("2", 2), (" 7 ", 7), ("1.5", 1.5), ("86400", 86_400), ("9999999999", DAY_S),
        ("-1", None), ("", None), ("soon", None), ("1e9", None), ("nan", None), ("inf", None), ("+5", None), ("0x10", None),
        ("9" * 400, None), ("1" * 100_000, None), ("5;url=x", None), ("2015-10-21T07:28:00Z", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0), ("Fri, 99 Zzz 2027 99:99:99 GMT", None),
    ],
)  # fmt: skip
def test_seconds_or_a_date_and_nothing_else(value: str, expected: float | None) -> None:
    assert wait(value) == expected


def test_a_date_is_kept_exactly() -> None:
    at = datetime.fromtimestamp(NOW, timezone.utc) + timedelta(seconds=90)
    assert wait(format_datetime(at, usegmt=True)) == 90


def test_the_nearest_to_the_providers_own_words_wins() -> None:
    body = b'{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}]}}'
    assert retry_after_s([], body, NOW) == 12.5
    assert retry_after_s([("retry-after", "3")], body, NOW) == 3
    assert retry_after_s([("retry-after", "3"), ("retry-after-ms", "2500")], body, NOW) == 2.5
    assert retry_after_s([("retry-after-ms", "2500"), ("retry-after", "3")], body, NOW) == 2.5
    assert retry_after_s([("retry-after", "soon"), ("retry-after-ms", "x")], body, NOW) == 12.5
    assert retry_after_s([], b"{}", NOW) is None


@given(
    st.text(max_size=60)
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d [-+]?\w{1,5}", fullmatch=True)
)
def test_whatever_a_header_says_the_answer_is_a_time_within_a_week_or_none(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        found = wait(value, name=name)
        assert found is None or 0 <= found <= DAY_S


@given(st.binary(max_size=300), st.text('0123456789.s"-e', max_size=20))
def test_whatever_a_body_says_too(noise: bytes, delay: str) -> None:
    found = retry_after_s([], noise + b'"retryDelay": "' + delay.encode() + b'"', NOW)
    assert found is None or 0 <= found <= DAY_S
