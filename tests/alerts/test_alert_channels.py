"""Every channel against a real receiver: what arrives, what is tried again, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib.util
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from alert_house import HOUR_US, NOON_US, Clock, Standings, notice, receiving, settings_from, standing, working

from bursar.adapters.channels import Channels
from bursar.adapters.channels.webhook import signing_key
from bursar.core.deliveries import NotSent, Outcome, Sent
from bursar.engine.ports import Notice

SECRET = "whsec_" + base64.b64encode(b"thirty-two bytes of test secret!").decode()


@asynccontextmanager
async def channel(environ: dict[str, str] | None = None, **spec: Any) -> AsyncIterator[Any]:
    settings = settings_from(channels={"ops": spec}, source="prod", console_url="https://bursar.example")
    channels = Channels(settings, environ or {}, timeout_s=2)
    try:
        yield channels.by_name["ops"]
    finally:
        await channels.close()


async def send(one: Any, *notices: Notice) -> list[Outcome]:
    return [await one.send(each, now_us=NOON_US) for each in notices]


# --- webhooks ---------------------------------------------------------------------------------------------------


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """What https://github.com/standard-webhooks/standard-webhooks says a receiver does."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return any(
        hmac.compare_digest(signature.partition(",")[2], wanted)
        for signature in headers["webhook-signature"].split(" ")
        if signature.startswith("v1,")
    )


def test_the_verification_is_the_one_of_the_specification() -> None:
    """The example of the reference implementation, so that this file and the channel are not wrong in the same way."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verified("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", headers, b'{"test": 2432232314}')


async def test_a_webhook_is_signed() -> None:
    """Headers, signature and body as Standard Webhooks says; a changed body or another secret does not verify."""
    async with receiving() as receiver:
        environ = {"SECRET": SECRET, "TOKEN": "abc"}
        async with channel(
            environ, kind="webhook", url=f"{receiver.url}/in", secret_env="SECRET", token_env="TOKEN"
        ) as one:
            assert await send(one, notice(), notice("resolved")) == [Sent(), Sent()]
        first, second = receiver.received
        assert (first.path, first.headers["authorization"]) == ("/in", "Bearer abc")
        assert first.headers["webhook-id"] == notice().id
        assert first.headers["webhook-timestamp"] == str(NOON_US // 1_000_000)
        assert verified(SECRET, first.headers, first.body)
        assert not verified(SECRET, first.headers, first.body + b" ")
        assert not verified("whsec_" + base64.b64encode(b"another").decode(), first.headers, first.body)
        assert first.json == {
            "type": "alert.firing",
            "timestamp": "2025-10-09T12:00:00.000Z",
            "data": {
                "id": notice().id,
                "key": notice().key,
                "status": "firing",
                "labels": dict(notice().labels),
                "annotations": dict(notice().annotations),
                "fired_at": "2025-10-09T12:00:00.000Z",
                "resolved_at": None,
                "source": "prod",
                "url": "https://bursar.example",
                "test": False,
            },
        }
        assert (second.json["type"], second.json["data"]["resolved_at"]) == (
            "alert.resolved",
            "2025-10-09T13:00:00.000Z",
        )


def test_secrets_of_webhooks() -> None:
    """base64 after ``whsec_``, with or without padding; other text as it is."""
    assert signing_key(SECRET) == signing_key(SECRET.rstrip("=")) == b"thirty-two bytes of test secret!"
    assert signing_key("plain") == b"plain"
    for broken in ("whsec_", "whsec_*"):
        with pytest.raises(ValueError):
            signing_key(broken)


async def test_what_reads_alertmanagers_webhooks_reads_ours() -> None:
    """Version 4 of its payload, with one alert."""
    async with receiving() as receiver:
        async with channel(kind="webhook", url=receiver.url, format="alertmanager") as one:
            assert await send(one, notice(), notice("resolved")) == [Sent(), Sent()]
        firing, resolved = (r.json for r in receiver.received)
        assert (firing["version"], firing["status"], firing["receiver"]) == ("4", "firing", "ops")
        assert firing["commonLabels"] == firing["alerts"][0]["labels"] == dict(notice().labels)
        assert firing["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
        assert resolved["alerts"][0]["endsAt"] == "2025-10-09T13:00:00.000Z"
        assert firing["alerts"][0]["fingerprint"] == resolved["alerts"][0]["fingerprint"]
        assert len(firing["alerts"][0]["fingerprint"]) == 16


async def test_a_real_alertmanager_gets_what_its_api_takes() -> None:
    """It fires until far ahead, since nobody repeats it; the resolution has the same labels and its end."""
    async with receiving() as receiver:
        async with channel(kind="alertmanager", url=f"{receiver.url}/") as one:
            assert await send(one, notice(), notice("resolved")) == [Sent(), Sent()]
        ((firing,), (resolved,)) = (r.json for r in receiver.received)
        assert {r.path for r in receiver.received} == {"/api/v2/alerts"}
        assert firing["labels"] == resolved["labels"] == {**dict(notice().labels), "source": "prod"}
        assert firing["endsAt"].startswith("2026-10-10")
        assert (resolved["startsAt"], resolved["endsAt"]) == ("2025-10-09T12:00:00.000Z", "2025-10-09T13:00:00.000Z")
        assert firing["generatorURL"] == "https://bursar.example"


# --- people -----------------------------------------------------------------------------------------------------


async def test_slack_shows_names_and_mentions_nobody() -> None:
    """Blocks of plain text within Slack's limits; a subject named ``<!channel>`` is only a name."""
    evil = notice(annotations=(("summary", "<!channel> & " + "x" * 400), ("description", "d" * 5_000)))
    async with receiving() as receiver:
        async with channel({"S": f"{receiver.url}/services/x"}, kind="slack", url_env="S") as one:
            assert await send(one, notice(), evil, notice("resolved")) == [Sent(), Sent(), Sent()]
        first, second, third = (r.json for r in receiver.received)
    assert first["text"] == "[WARNING] Budget search: 80 % of $20.00 spent"
    assert [block["type"] for block in first["blocks"]] == ["header", "section", "context"]
    assert "Raise the limit of search." in first["blocks"][1]["text"]["text"]
    assert "<!channel>" not in second["text"]
    assert "&lt;!channel&gt; &amp;" in second["text"]
    assert [len(second["blocks"][n]["text"]["text"]) for n in (0, 1)] == [150, 2_900]
    assert {block["text"]["type"] for block in second["blocks"][:2]} == {"plain_text"}
    assert third["text"].startswith("[RESOLVED] ")


async def test_pagerduty_opens_and_closes_one_incident() -> None:
    """Trigger and resolve share the key; severity and details are there."""
    async with receiving() as receiver:
        receiver.answers = [(202, {}, b"{}")]
        async with channel({"K": "r" * 32}, kind="pagerduty", token_env="K", url=f"{receiver.url}/v2/enqueue") as one:
            assert await send(one, notice(), notice("resolved")) == [Sent(), Sent()]
        trigger, over = (r.json for r in receiver.received)
    assert (trigger["event_action"], over["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == over["dedup_key"]
    assert len(trigger["dedup_key"]) <= 255
    assert trigger["routing_key"] == "r" * 32
    assert trigger["payload"]["severity"] == "warning"
    assert trigger["payload"]["source"] == "prod"
    assert trigger["payload"]["custom_details"]["budget"] == "search"


class Mailbox:
    """Takes mail; refuses what a test says."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, EmailMessage]] = []
        self.answer = "250 OK"
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.append((envelope, message_from_bytes(content, policy=policy.default)))  # type: ignore[arg-type]
        return self.answer

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"correct horse", handled=False)


@asynccontextmanager
async def mail_server(
    mailbox: Mailbox, *, ssl_context: ssl.SSLContext | None = None, **more: Any
) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()

    def session() -> SMTP:
        return SMTP(mailbox, hostname="127.0.0.1", authenticator=mailbox.authenticate, loop=loop, **more)

    server = await loop.create_server(session, "127.0.0.1", 0, ssl=ssl_context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate for localhost that this process trusts."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


MAIL: dict[str, Any] = {"kind": "email", "from": "bursar@example.com", "to": ["a@example.com", "b@example.com"]}


async def test_mail_arrives_at_everybody() -> None:
    """One message to all, readable, with an id that is the same however often it is sent."""
    mailbox = Mailbox()
    evil = notice(annotations=(("summary", "x\r\nBcc: evil@example.com"), ("description", "Ünïcödé")))
    async with (
        mail_server(mailbox, auth_require_tls=False) as port,
        channel(**MAIL, host="127.0.0.1", port=port, security="plain") as one,
    ):
        assert await send(one, notice(), notice(), evil, notice("resolved")) == [Sent()] * 4
    (envelope, first), (_, again), (_, third), (_, over) = mailbox.mails
    assert envelope.rcpt_tos == ["a@example.com", "b@example.com"]
    assert (first["Subject"], first["To"]) == (
        "[WARNING] Budget search: 80 % of $20.00 spent",
        "a@example.com, b@example.com",
    )
    body = first.get_content()
    assert "What to do: Raise the limit of search." in body
    assert "https://bursar.example" in body
    assert first["Message-ID"] == again["Message-ID"]
    assert third["Bcc"] is None
    assert "Ünïcödé" in third.get_content()
    assert over["Subject"].startswith("[RESOLVED]")


@pytest.mark.parametrize("security", ["starttls", "ssl"])
async def test_mail_goes_over_tls_with_a_login(tls: ssl.SSLContext, security: str) -> None:
    """Both ways to TLS; a wrong password is refused for good, and not repeated."""
    mailbox = Mailbox()
    more: dict[str, Any] = {"tls_context": tls, "require_starttls": True} if security == "starttls" else {}
    if security == "ssl":
        more = {"auth_require_tls": False, "ssl_context": tls}
    async with mail_server(mailbox, **more) as port:
        spec = {**MAIL, "host": "localhost", "port": port, "security": security, "username": "u", "password_env": "P"}
        async with channel({"P": "correct horse"}, **spec) as one:
            assert await send(one, notice()) == [Sent()]
        async with channel({"P": "wrong battery"}, **spec) as one:
            (refused,) = await send(one, notice())
    assert len(mailbox.mails) == 1
    assert mailbox.logins[0] == (b"u", b"correct horse")
    assert isinstance(refused, NotSent)
    assert refused.reason == f"localhost:{port} refuses the user or the password (535)"
    assert not refused.retry


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password goes to a server that is not the one it says it is."""
    monkeypatch.delenv("SSL_CERT_FILE")
    mailbox = Mailbox()
    async with mail_server(mailbox, tls_context=tls) as port:
        spec = {**MAIL, "host": "localhost", "port": port, "username": "u", "password_env": "P"}
        async with channel({"P": "correct horse"}, **spec) as one:
            (refused,) = await send(one, notice())
    assert isinstance(refused, NotSent)
    assert "has a certificate that cannot be trusted" in refused.reason
    assert mailbox.logins == []


@pytest.mark.parametrize(("answer", "retry"), [("451 try later", True), ("550 no such list", False)])
async def test_mail_that_is_refused(answer: str, retry: bool) -> None:
    """4yz is for now, 5yz for good."""
    mailbox = Mailbox()
    mailbox.answer = answer
    async with (
        mail_server(mailbox, auth_require_tls=False) as port,
        channel(**MAIL, host="127.0.0.1", port=port, security="plain") as one,
    ):
        (refused,) = await send(one, notice())
    assert refused == NotSent(f"127.0.0.1:{port} answers {answer[:3]}: {answer[4:]}", retry=retry)


async def test_a_mail_server_that_is_not_there_is_tried_again() -> None:
    """Nobody listens: that may change."""
    async with channel(**MAIL, host="127.0.0.1", port=1, security="plain") as one:
        (failed,) = await send(one, notice())
    assert isinstance(failed, NotSent)
    assert failed.retry
    assert "could not be reached" in failed.reason


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of libraries it uses
@pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is an extra and not installed")
async def test_apprise_delivers(caplog: pytest.LogCaptureFixture) -> None:
    """Through its json:// plugin to a local receiver; what it cannot deliver is tried again, and it logs no address."""
    caplog.set_level("DEBUG")
    async with receiving() as receiver:
        address = receiver.url.replace("http://", "json://alice:hunter2hunter2@") + "/p4thS3gment"
        async with channel({"A": address}, kind="apprise", url_env="A") as one:
            (sent,) = await send(one, notice())
            receiver.answers = [(500, {}, b"no")]
            (failed,) = await send(one, notice())
        async with channel({"A": "nosuchservice://x"}, kind="apprise", url_env="A") as one:
            (unknown,) = await send(one, notice())
    assert sent == Sent()
    assert receiver.received[0].json["title"] == "[WARNING] Budget search: 80 % of $20.00 spent"
    assert failed == NotSent("apprise could not deliver it (json://)")
    assert unknown == NotSent("apprise does not understand the address (nosuchservice)", retry=False)
    assert "hunter2" not in caplog.text
    assert "p4thS3gment" not in caplog.text


async def test_apprise_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    async with channel({"A": "json://localhost"}, kind="apprise", url_env="A") as one:
        (failed,) = await send(one, notice())
    assert failed == NotSent('apprise is not installed: pip install "bursar[apprise]"', retry=False)


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "retry", "after_s"),
    [
        (400, {}, False, 0),
        (401, {}, False, 0),
        (404, {}, False, 0),
        (410, {}, False, 0),
        (408, {}, True, 0),
        (429, {"retry-after": "120"}, True, 120),
        (500, {}, True, 0),
        (503, {"retry-after": "nonsense"}, True, 0),
        (503, {"retry-after": "99999999999999"}, True, 6 * 3_600),
        (301, {"location": "https://elsewhere.example/"}, False, 0),
    ],
)
async def test_failures_that_last_are_told_from_those_that_do_not(
    status: int, headers: dict[str, str], retry: bool, after_s: int
) -> None:
    """4xx but for 408, 425 and 429 would be refused again; redirects are not followed; Retry-After counts."""
    async with receiving() as receiver:
        receiver.answers = [(status, headers, b"because " + b"x" * 100_000)]
        async with channel(kind="webhook", url=receiver.url) as one:
            (outcome,) = await send(one, notice())
        assert len(receiver.received) == 1
    assert isinstance(outcome, NotSent)
    assert (outcome.retry, outcome.after_s) == (retry, after_s)
    assert f"127.0.0.1 answers {status}" in outcome.reason
    assert len(outcome.reason) <= 300


async def test_a_date_in_retry_after_counts() -> None:
    """The other form that HTTP allows."""
    async with receiving() as receiver:
        receiver.answers = [(503, {"retry-after": formatdate(time.time() + 100, usegmt=True)}, b"")]
        async with channel(kind="webhook", url=receiver.url) as one:
            (outcome,) = await send(one, notice())
    assert isinstance(outcome, NotSent)
    assert 90 <= outcome.after_s <= 100


async def test_what_is_not_set_is_named() -> None:
    """A channel without its secret says which variable is missing, and is tried again."""
    async with channel(kind="slack", url_env="NOT_SET") as one:
        assert await send(one, notice()) == [NotSent("the environment variable NOT_SET (url_env) is not set")]
    async with channel({"S": "whsec_*"}, kind="webhook", url="http://h", secret_env="S") as one:
        (outcome,) = await send(one, notice())
    assert outcome == NotSent("the secret in S cannot be used: after whsec_ there must be base64")


async def test_two_failures_and_then_it_arrives(tmp_path: Path) -> None:
    """Tried again after its wait, with the same id and a new timestamp; the outcomes are counted."""
    clock, standings = Clock(), Standings()
    standings.now = [standing(1_000, at_us=clock.us, forecast=False)]
    settings = settings_from(channels={"hook": {"kind": "webhook", "url_env": "H"}})
    async with receiving() as receiver:
        receiver.answers = [(500, {}, b"no"), (429, {"retry-after": "600"}, b"slow"), (204, {}, b"")]
        async with working(tmp_path, settings, clock, standings, environ={"H": receiver.url}) as worker:
            await worker.evaluate(price_version="v", ledger_lag=0)
            for wait_s in (0, 14, 5, 500, 100, 0):
                clock.us += wait_s * 1_000_000
                await worker.deliver()
            assert len(receiver.received) == 3
            assert len({r.headers["webhook-id"] for r in receiver.received}) == 1
            assert len({r.headers["webhook-timestamp"] for r in receiver.received}) == 3
            assert worker.outcomes == {("hook", "retried"): 2, ("hook", "sent"): 1}


async def test_a_channel_that_hangs_takes_nothing_else_down(tmp_path: Path) -> None:
    """The others get theirs at once, again and again; the hanging one is given up after its time and tried again."""
    clock, standings = Clock(), Standings()
    settings = settings_from(
        channels={"slow": {"kind": "webhook", "url_env": "SLOW"}, "quick": {"kind": "webhook", "url_env": "QUICK"}}
    )
    async with receiving() as slow, receiving() as quick:
        slow.hang = asyncio.Event()
        environ = {"SLOW": slow.url, "QUICK": quick.url}
        async with working(
            tmp_path, settings, clock, standings, environ=environ, deliver_s=0.2, send_timeout_s=1.0
        ) as worker:
            for number in range(3):
                name = f"b{number}"
                standings.now = [*standings.now, standing(1_000, at_us=clock.us, name=name, forecast=False)]
                await worker.evaluate(price_version="v", ledger_lag=0)
                await worker.deliver()
                assert len(quick.received) == number + 1
            async with asyncio.timeout(10):
                while not worker.outcomes["slow", "retried"]:
                    await worker.deliver()
            slow.hang.set()
            slow.hang = None
            clock.us += HOUR_US
            async with asyncio.timeout(10):
                while worker.outcomes["slow", "sent"] < 3:
                    await worker.deliver()


async def test_new_settings_take_effect_at_once(tmp_path: Path) -> None:
    """A channel that is added gets what fires from then on; what waits for one that is gone is a dead letter."""
    clock, standings = Clock(), Standings()
    standings.now = [standing(1_000, at_us=clock.us, forecast=False)]
    async with receiving() as old, receiving() as new:
        old.answers = [(500, {}, b"")]
        first = settings_from(channels={"old": {"kind": "webhook", "url": old.url}})
        async with working(tmp_path, first, clock, standings) as worker:
            await worker.evaluate(price_version="v", ledger_lag=0)
            await worker.deliver()
            worker.use(settings_from(channels={"new": {"kind": "webhook", "url": new.url}}))
            standings.now = [standing(1_600, at_us=clock.us, forecast=False)]
            await worker.evaluate(price_version="v", ledger_lag=0)
            await worker.deliver()
    assert [r.json["data"]["labels"]["threshold"] for r in new.received] == ["80%"]
