"""What notices look like to machines and to people. Pure."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any, Final

from bursar.core.values import valueclass
from bursar.engine.ports import Notice

__all__ = ["About", "annotation", "dedup_key", "iso", "json_bytes", "label", "plain_text", "title"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@valueclass
class About:
    """What every notice says of the installation: its name, and where its console is ("" when that is not known)."""

    source: str = "bursar"
    console_url: str = ""


def iso(at_us: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def label(notice: Notice, name: str) -> str:
    return dict(notice.labels).get(name, "")


def annotation(notice: Notice, name: str) -> str:
    return dict(notice.annotations).get(name, "")


def title(notice: Notice) -> str:
    """One line: what happened, how severe it is, and whether it is over."""
    mark = "RESOLVED" if notice.event == "resolved" else label(notice, "severity").upper() or "ALERT"
    test = "TEST " if notice.test else ""
    return f"[{test}{mark}] {annotation(notice, 'summary')}"


def plain_text(notice: Notice, about: About) -> str:
    """The whole notice for people who read text."""
    lines = [annotation(notice, "description")]
    if notice.event == "resolved" and notice.resolved_us is not None:
        lines = [f"Over since {iso(notice.resolved_us)}. When it fired:", "", *lines]
    elif way_out := annotation(notice, "way_out"):
        lines += ["", f"What to do: {way_out}"]
    lines += ["", f"Since: {iso(notice.fired_us)}"]
    lines += [f"{name}: {value}" for name, value in notice.labels]
    lines += [f"source: {about.source}"] + ([about.console_url] if about.console_url else [])
    return "\n".join(lines) + "\n"


def dedup_key(notice: Notice, about: About) -> str:
    """Identifies the alert at the receiver: the same for its firing and its resolution."""
    return f"{about.source}-{blake2b(notice.key.encode(), digest_size=16).hexdigest()}"
