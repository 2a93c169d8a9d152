"""E-mail over SMTP: STARTTLS, TLS from the start, or plain.

Rule 1: the server is spoken to in a thread of the channel's own: one that hangs keeps only this channel.
Rule 2: certificates are checked, against the system's authorities or ``$SSL_CERT_FILE``.
Rule 3: 4yz answers are tried again, 5yz are not, and neither is a password that is refused.
Rule 4: an answer to a login is not shown: it may repeat what was sent.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Final

from bursar.core.alert_fields import ChannelSpec
from bursar.core.deliveries import NotSent, Outcome, Sent
from bursar.engine.ports import Notice

from .payloads import About, plain_text, title
from .redact import Redactor

__all__ = ["EmailChannel"]

_TIMEOUT_S: Final = 20
_SUBJECT_LENGTH_MAX: Final = 200


class EmailChannel:
    """``engine.ports.Channel``."""

    def __init__(
        self, spec: ChannelSpec, redact: Redactor, about: About, *, password: str, timeout_s: float = _TIMEOUT_S
    ) -> None:
        self.name: Final = spec.name
        self._spec = spec
        self._redact = redact
        self._about = about
        self._password = password
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"mail-{spec.name}")

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        message = _message(self._spec, notice, self._about, now_us)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._deliver, message)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, message: EmailMessage) -> Outcome:
        try:
            return self._speak(message)
        except smtplib.SMTPAuthenticationError as error:
            return self._failed(f"refuses the user or the password ({error.smtp_code})", retry=False)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            return self._failed(f"refuses every recipient ({', '.join(map(str, codes))})", retry=min(codes) < 500)
        except smtplib.SMTPResponseException as error:
            text = (
                error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
            )
            return self._failed(f"answers {error.smtp_code}: {text}", retry=error.smtp_code < 500)
        except smtplib.SMTPNotSupportedError:
            return self._failed("does not offer what is asked of it: STARTTLS or a login", retry=False)
        except ssl.SSLCertVerificationError as error:
            return self._failed(f"has a certificate that cannot be trusted: {error.verify_message}", retry=False)
        except TimeoutError:
            return self._failed("did not answer in time", retry=True)
        except (smtplib.SMTPException, OSError) as error:
            return self._failed(
                f"could not be reached: {error.strerror if isinstance(error, OSError) else error}", retry=True
            )

    def _failed(self, what: str, *, retry: bool) -> NotSent:
        return NotSent(self._redact(f"{self._spec.host}:{self._spec.port} {what}"), retry=retry)

    def _speak(self, message: EmailMessage) -> Outcome:
        spec = self._spec
        context = None if spec.security == "plain" else ssl.create_default_context()
        if spec.security == "ssl":
            client: smtplib.SMTP = smtplib.SMTP_SSL(spec.host, spec.port, timeout=self._timeout_s, context=context)
        else:
            client = smtplib.SMTP(spec.host, spec.port, timeout=self._timeout_s)
        with client:
            if spec.security == "starttls":
                client.starttls(context=context)
            if spec.username:
                client.login(spec.username, self._password)
            refused = client.send_message(message, from_addr=spec.sender, to_addrs=list(spec.recipients))
        if refused:
            # The others have it; sending it to all again would not make the refused ones take it.
            return self._failed(
                f"takes it, but refuses {len(refused)} of {len(spec.recipients)} recipients", retry=False
            )
        return Sent()


def _message(spec: ChannelSpec, notice: Notice, about: About, now_us: int) -> EmailMessage:
    message = EmailMessage()
    subject = "".join(c if c.isprintable() else " " for c in title(notice))
    message["Subject"] = subject[:_SUBJECT_LENGTH_MAX]
    message["From"] = Address(about.source, addr_spec=spec.sender)
    message["To"] = ", ".join(spec.recipients)
    message["Date"] = datetime.fromtimestamp(now_us // 1_000_000, timezone.utc)
    # The same for every attempt: a mailbox that has it already can tell.
    message["Message-ID"] = f"<{notice.id}.{spec.name}@{spec.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(plain_text(notice, about))
    return message
