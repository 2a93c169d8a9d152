"""Errors in each provider's own words and status codes."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from ._reply import Stamp, to_json

__all__ = ["MESSAGES", "Dialect", "error"]

Dialect: TypeAlias = Literal["openai", "anthropic", "gemini"]

MESSAGES: Final = {
    "400": "The simulator was told to refuse this request.",
    "401": "The API key is missing or not valid.",
    "404": "There is nothing at this address.",
    "429": "Rate limit reached for requests. Please try again later.",
    "500": "The server had an error while processing your request.",
    "503": "The model is overloaded. Please try again later.",
}
_OPENAI: Final = {
    "400": (400, "invalid_request_error", None),
    "401": (401, "invalid_request_error", "invalid_api_key"),
    "404": (404, "invalid_request_error", "unknown_url"),
    "429": (429, "requests", "rate_limit_exceeded"),
    "500": (500, "server_error", None),
    "503": (503, "server_error", "overloaded"),
}
_ANTHROPIC: Final = {
    "400": (400, "invalid_request_error"),
    "401": (401, "authentication_error"),
    "404": (404, "not_found_error"),
    "429": (429, "rate_limit_error"),
    "500": (500, "api_error"),
    "503": (529, "overloaded_error"),
}
_GEMINI: Final = {
    "400": (400, "INVALID_ARGUMENT"),
    "401": (401, "UNAUTHENTICATED"),
    "404": (404, "NOT_FOUND"),
    "429": (429, "RESOURCE_EXHAUSTED"),
    "500": (500, "INTERNAL"),
    "503": (503, "UNAVAILABLE"),
}


def error(dialect: Dialect, kind: str, message: str, field: str | None, wait_s: int, stamp: Stamp) -> tuple[int, bytes]:
    """Status and body of the error ``kind`` (a key of ``MESSAGES``)."""
    match dialect:
        case "openai":
            status, name, code = _OPENAI[kind]
            body: dict[str, Any] = {"error": {"message": message, "type": name, "param": field, "code": code}}
        case "anthropic":
            status, name = _ANTHROPIC[kind]
            body = {"type": "error", "error": {"type": name, "message": message}, "request_id": stamp.id("req_01", 22)}
        case "gemini":
            status, name = _GEMINI[kind]
            body = {"error": {"code": status, "message": message, "status": name}}
            if kind == "429":
                retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait_s}s"}
                body["error"]["details"] = [retry]
    return status, to_json(body)
