"""What a provider's refusal or failure means: its status, its own words, and when to come again.

Rule 1: the status decides, unless the words say more: providers refuse a prompt that is too long, a policy and an empty account
        with the same 400 or 429 as anything else.
Rule 2: of an answer that came whole only what nobody could use is a failure: a body that cannot be read, nothing in it, or
        an ending that is not the model's own (``ENDINGS``).
Rule 3: ``Retry-After`` is seconds or a date (RFC 9110, 10.2.3); OpenAI adds ``retry-after-ms``, Google a ``RetryInfo`` in the
        body (google.rpc, error_details.proto). The nearest to the provider's own words wins: milliseconds, seconds, body.
Rule 4: a 429 that says when to come again, or names itself a limit of the rate, is one, whatever it says of plans and bills:
        an empty account is not filled by waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from bursar.core.call import Reply
from bursar.core.failures import Cause

__all__ = ["ENDINGS", "cause_of", "retry_after_s"]

_WAIT_S_MAX: Final = 86_400
_LOOKED_AT: Final = 4_096

_CONTEXT: Final = re.compile(
    rb"context[_ ](length|window|limit|size)|maximum (context|prompt length)|(prompt|input) is too long|input token count"
    rb"|too many (input )?tokens|exceeds? the (maximum|max)[^.]{0,40}tokens|string_above_max_length|request too large for"
    rb"|reduce the length of",
    re.IGNORECASE,
)
_POLICY: Final = re.compile(
    rb"content[_ ](policy|filter)|content management policy|content filtering policy|safety (system|setting)|usage policy"
    rb"|responsible ?ai|PROHIBITED_CONTENT|moderation",
    re.IGNORECASE,
)
_QUOTA: Final = re.compile(
    rb"insufficient_quota|exceeded your current quota|credit balance is too low|billing|insufficient (balance|credits?|funds)"
    rb"|payment required|out of credits",
    re.IGNORECASE,
)
_RATE: Final = re.compile(rb'rate_limit_(error|exceeded)|"retryDelay"|(try again|retry) in \d', re.IGNORECASE)
_KEY: Final = re.compile(
    rb"API_KEY_INVALID|(incorrect|invalid)[_ ]api[_ ]key|api key (not valid|expired)", re.IGNORECASE
)
_MODEL: Final = re.compile(
    rb"model_not_found|model identifier is invalid|not_found_error|is not found for API version|model [^ ]{1,200} is not supported\b",
    re.IGNORECASE,
)
# What the model itself said could not be read as a call of a tool: the next one may do better.
_INVALID: Final = re.compile(rb"tool_use_failed")
_RETRY_INFO: Final = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,7}(?:\.\d{1,9})?)s"')
ENDINGS: Final[Mapping[str, Cause]] = {
    **dict.fromkeys(
        (
            "content_filter", "refusal",  # OpenAI, Anthropic
            "guardrail_intervened", "content_filtered",  # Bedrock
            "ERROR_TOXIC",  # Cohere
            # Gemini, of a prompt as of an answer. OTHER too: its troubleshooting guide explains that by Google's terms.
            "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "JAILBREAK", "MODEL_ARMOR", "ESCALATION", "OTHER",
            "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER",
        ),
        "content_policy",
    ),
    **dict.fromkeys(
        (
            "malformed_model_output", "malformed_tool_use",  # Bedrock
            "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
            "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE",
            "LANGUAGE",  # one that this model does not speak; another may
        ),
        "invalid",
    ),
    "PUP_LIMITED_DISABLED": "auth",  # Google: the account is limited or disabled
    "failed": "server",  # OpenAI's responses
    "error": "server",  # Mistral, OpenRouter
    "ERROR": "server",  # Cohere
    "TIMEOUT": "timeout",  # Cohere
    "insufficient_system_resource": "overload",  # DeepSeek
}  # fmt: skip
"""The finishes that make no answer, whatever came before them, and why."""


def cause_of(reply: Reply, body: bytes = b"") -> Cause | None:
    """Why this reply is no answer, None where it is one. ``body`` is that of a refusal. Not for what we ended ourselves."""
    if not reply.left:
        return "connect"
    status = reply.http_status
    if status is not None and status >= 400:
        return _refused(status, body[:_LOOKED_AT])
    if reply.status == "cut":
        return "cut"
    if reply.status == "error":
        return "timeout" if "timed out" in reply.reading.error else "cut"
    reading = reply.reading
    if ending := ENDINGS.get(reading.finish):
        return ending
    if reading.usage is None and reading.reason.startswith("the body cannot be read"):
        return "invalid"
    if reading.error and not reading.finish:
        return "server"  # a stream that reported an error in place of its end
    usage = reading.usage
    said_nothing = usage is not None and not usage.output_tokens and not reading.tools and bool(usage.input_tokens)
    return "invalid" if said_nothing and reading.finish else None


def _refused(status: int, body: bytes) -> Cause:
    if status in (400, 413, 422) and _CONTEXT.search(body):
        return "context"
    if status in (400, 402, 403, 429) and _QUOTA.search(body) and not (status == 429 and _RATE.search(body)):
        return "quota"
    if status in (400, 403, 422) and _POLICY.search(body):
        return "content_policy"
    if status == 400 and _INVALID.search(body):
        return "invalid"
    if status == 400 and _KEY.search(body):
        return "auth"
    if status == 404 or (status == 400 and _MODEL.search(body)):
        return "model"
    match status:
        case 401 | 403:
            return "auth"
        case 402:
            return "quota"
        case 408 | 504 | 524:
            return "timeout"
        case 425 | 429:
            return "rate_limit"
        case 503 | 529:
            return "overload"
        case _:
            return "server" if status >= 500 else "request"


def retry_after_s(headers: Iterable[tuple[str, str]], body: bytes, now_s: float) -> float | None:
    """Seconds that the provider asks to wait, None where it says nothing. ``now_s`` is seconds since 1970."""
    said: float | None = None
    for name, value in headers:
        if name == "retry-after-ms" and re.fullmatch(r"\d{1,10}(\.\d+)?", value.strip()):
            return _bounded(float(value) / 1_000)
        if name == "retry-after":
            said = _header_s(value.strip(), now_s)
    if said is not None:
        return _bounded(said)
    found = _RETRY_INFO.search(body[:_LOOKED_AT])
    return _bounded(float(found[1])) if found else None


def _header_s(value: str, now_s: float) -> float | None:
    if re.fullmatch(r"\d{1,10}(\.\d+)?", value):
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - now_s
    except (ValueError, TypeError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _WAIT_S_MAX)
