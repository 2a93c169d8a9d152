"""No secret gets out: of errors, the database, the log or the command line, whatever a receiver answers."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from alert_house import Clock, Receiver, Standings, notice, receiving, settings_from, standing, working
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.channels import Channels, Redactor
from bursar.core.deliveries import NotSent

TOKEN = 'xo/xb+S3cr3t"Tok=en\\Zz99'
SLACK = "https://hooks.slack.com/services/T0AAAAAAA/B0BBBBBBB/c3VwZXJzZWNyZXQ0Mg"
LOGIN = "https://alice:hunter2hunter2@example.com:8443/p4thS3gment?api_key=qu3ryS3cret#fr4gment"
PIECES = ["T0AAAAAAA", "B0BBBBBBB", "c3VwZXJzZWNyZXQ0Mg", "hunter2hunter2", "p4thS3gment", "qu3ryS3cret", "fr4gment"]


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        quote(TOKEN),
        quote(TOKEN, safe=""),
        quote_plus(TOKEN),
        json.dumps({"routing_key": TOKEN}),
        json.dumps({"u": SLACK}).replace("/", "\\/"),
        TOKEN.upper(),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.urlsafe_b64encode(TOKEN.encode()).decode(),
        SLACK,
        f"error sending request for url ({SLACK})",
        f"POST {SLACK.removeprefix('https://hooks.slack.com')} HTTP/1.1",
        SLACK.upper(),
        "no_service: c3VwZXJzZWNyZXQ0Mg",
        LOGIN,
        LOGIN.replace("@", "%40"),
        "alice:hunter2hunter2",
        "login failed for hunter2hunter2",
        "value qu3ryS3cret is not valid",
        "x" * 3_000 + SLACK,
        SLACK * 200,
    ],
)
def test_attempts_to_get_a_secret_through(text: str) -> None:
    """Whole or in parts, in the forms in which it travels."""
    shown = Redactor([TOKEN, SLACK, LOGIN])(text)
    for piece in (TOKEN, TOKEN[:8], TOKEN[-8:], *PIECES):
        assert piece.lower() not in shown.lower()
    assert base64.b64encode(TOKEN.encode()).decode()[:12] not in shown
    assert len(shown) <= 300


def test_an_unknown_address_loses_what_could_be_one() -> None:
    """Also a URL that nobody told us of keeps only its host."""
    shown = Redactor()("see https://u:p4ss@other.example/path/key?x=1 and json://tok3n@host/abc.")
    assert shown == "see https://other.example/*** and json://host/***"


@given(st.text(st.characters(codec="utf-8"), min_size=4, max_size=40), st.text(max_size=60), st.integers(0, 60))
def test_no_text_around_a_secret_saves_it(secret: str, around: str, cut: int) -> None:
    """Any secret in any text, also when somebody cut the text within it."""
    shown = Redactor([secret])(around + secret + around)
    if secret.strip() and secret not in around and secret not in "***...":
        assert secret not in shown.replace("***", "\n") or secret in around + around
    half = Redactor([secret])(around + secret[: max(4, cut % len(secret))])
    assert len(half) <= 300


def test_a_secret_that_was_cut_is_known_by_its_beginning() -> None:
    """Answers are read up to a limit, which may lie within the secret."""
    assert Redactor([SLACK])("invalid: " + SLACK[: len(SLACK) - 5]) == "invalid: https://hooks.slack.com/***"
    assert "c3VwZXJ" not in Redactor([SLACK])("invalid: c3VwZXJzZWNy")


ENVIRON = {
    "SLACK": "/services/T0AAAAAAA/B0BBBBBBB/c3VwZXJzZWNyZXQ0Mg",
    "LOGIN": "/p4thS3gment?api_key=qu3ryS3cret#fr4gment",
    "KEY": "hunter2hunter2",
}
CHANNELS: dict[str, Any] = {
    "slack": {"kind": "slack", "url_env": "SLACK"},
    "hook": {"kind": "webhook", "url_env": "LOGIN", "secret_env": "KEY", "token_env": "KEY"},
    "pager": {"kind": "pagerduty", "url_env": "LOGIN", "token_env": "KEY"},
    "am": {"kind": "alertmanager", "url_env": "LOGIN", "token_env": "KEY"},
}


def environ(receiver: Receiver) -> dict[str, str]:
    host = receiver.url.removeprefix("http://")
    return {
        "SLACK": receiver.url + ENVIRON["SLACK"],
        "LOGIN": f"http://alice:hunter2hunter2@{host}{ENVIRON['LOGIN']}",
        "KEY": ENVIRON["KEY"],
    }


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("status", [400, 500, 302])
async def test_a_receiver_that_repeats_the_request_betrays_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Its answer holds path, headers and body; neither the log nor the books' file has a secret of them."""
    caplog.set_level(logging.DEBUG)
    clock, standings = Clock(), Standings()
    standings.now = [standing(2_000, at_us=clock.us)]
    async with receiving() as receiver:
        secrets = environ(receiver)
        echo = " ".join([*secrets.values(), *PIECES, json.dumps(secrets)]).encode() * 3
        receiver.answers = [(status, {"location": secrets["LOGIN"]}, echo)]
        async with working(tmp_path, settings_from(channels=CHANNELS), clock, standings, environ=secrets) as worker:
            await worker.evaluate(price_version="v", ledger_lag=0)
            await worker.deliver()
    assert {r.path.partition("?")[0] for r in receiver.received} >= {ENVIRON["SLACK"], "/p4thS3gment"}
    stored = everything_in(tmp_path)
    assert str(status).encode() in stored
    for piece in PIECES:
        assert piece not in caplog.text
        assert piece.encode() not in stored


@pytest.mark.parametrize(
    "address",
    [
        "http://alice:hunter2hunter2@127.0.0.1:1/p4thS3gment?api_key=qu3ryS3cret",
        "http://alice:hunter2hunter2@no-such-host.invalid/p4thS3gment?api_key=qu3ryS3cret",
        "hunter2hunter2 is not an address",
        "http://[hunter2hunter2/p4thS3gment",
    ],
)
async def test_an_address_that_fails_is_not_repeated(address: str) -> None:
    """Refused connections, unknown hosts and nonsense: the reason names a host at most."""
    settings = settings_from(channels={"hook": {"kind": "webhook", "url_env": "HOOK"}})
    channels = Channels(settings, {"HOOK": address})
    outcome = await channels.by_name["hook"].send(notice(), now_us=1)
    await channels.close()
    assert isinstance(outcome, NotSent)
    assert not [piece for piece in PIECES if piece in outcome.reason]


async def test_a_token_with_a_line_break_is_an_error_without_the_token() -> None:
    """A header that cannot be made is said so."""
    settings = settings_from(channels={"hook": {"kind": "webhook", "url": "http://127.0.0.1:1", "token_env": "T"}})
    channels = Channels(settings, {"T": "hunter2\r\nhunter2hunter2"})
    outcome = await channels.by_name["hook"].send(notice(), now_us=1)
    await channels.close()
    assert isinstance(outcome, NotSent)
    assert "hunter2" not in outcome.reason
