"""Claude Code transcripts: ``PROJECT/SESSION.jsonl`` and ``PROJECT/SESSION/subagents/**/agent-*.jsonl``.

Rule 1: one call is logged once per content block. It is counted once, by (message.id, requestId), with the usage of
        its last row: input and cache units repeat, output grows.
Rule 2: the same call may stand in several files, because a resumed or forked session copies its history. The first
        file wins: sessions before agents, older before newer. A copied row belongs to the session it came from.
Rule 3: a row that Claude Code wrote itself (``<synthetic>``, an API error) is not a call.
Rule 4: the session is the task ``claude-code:SESSION``; each subagent is a child task ``claude-code:SESSION/AGENT``.
Rule 5: a call whose rows are still coming is left for the next import: an attempt is booked once and never grows.
Rule 6: progress rows copy a subagent's calls with the output count of their first moment. They are never booked,
        else the copy would shut out the transcript; calls known only from them are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from bursar.core.ledger import Attempt
from bursar.core.prices import PriceBook
from bursar.core.scopes import NOBODY, Scope, make_labels
from bursar.wire.anthropic import DIALECT
from bursar.wire.dialect import UNREADABLE

from .attempts import last_part, observed, parse_time, short
from .files import Line, Progress, find_files, no_progress, read_lines
from .tally import Tally

__all__ = ["find_transcripts", "read_transcripts"]

_T = TypeVar("_T")

# A call streams for minutes at most. While its last row is younger than this, more rows may follow.
_STILL_WRITTEN: Final = timedelta(minutes=10)
# Claude Code names its own agents by what they do: ``acompact-1f2e3d``, ``aprompt_suggestion-4c5b6a``.
_NAMED_AGENT: Final = re.compile(r"a([a-z_]+)-[0-9a-f]+")
_TOOL_USES: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_PROVIDERS: Final = {"msg_bdrk_": "aws", "msg_vrtx_": "google"}


_NULL: Final = msgspec.Raw(b"null")


class _Block(msgspec.Struct):
    type: str = ""
    name: str | None = None
    id: str | None = None
    tool_use_id: str | None = None
    input: msgspec.Raw = _NULL


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = _NULL
    content: list[_Block] | str | None = None


class _Origin(msgspec.Struct, rename="camel"):
    session_id: str | None = None


class _Row(msgspec.Struct, rename="camel"):
    type: str | None = None
    uuid: str | None = None
    timestamp: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    agent_id: str | None = None
    is_sidechain: bool | None = None
    is_api_error_message: bool | None = None
    forked_from: _Origin | None = None
    cwd: str | None = None
    git_branch: str | None = None
    version: str | None = None
    message: _Message | None = None
    data: msgspec.Raw = _NULL
    tool_use_result: msgspec.Raw = _NULL


class _Copy(msgspec.Struct):
    type: str | None = None
    message: _Message | None = None


class _Progress(msgspec.Struct):
    type: str | None = None
    message: _Copy | None = None


class _Launch(msgspec.Struct, rename="camel"):
    agent_id: str | None = None


class _AgentMeta(msgspec.Struct, rename="camel"):
    agent_type: str | None = None
    subagent_type: str | None = msgspec.field(default=None, name="subagent_type")


class _Response(msgspec.Struct):
    """The parts of a response that a transcript keeps, for the reader of responses."""

    id: str
    model: str
    stop_reason: str | None
    usage: msgspec.Raw
    type: str = "message"
    role: str = "assistant"
    content: tuple[()] = ()


_ROW: Final = msgspec.json.Decoder(_Row)
_PROGRESS: Final = msgspec.json.Decoder(_Progress)
_LAUNCH: Final = msgspec.json.Decoder(_Launch)
_AGENT_META: Final = msgspec.json.Decoder(_AgentMeta)


@dataclass(slots=True)
class _Call:
    """What the rows of one call say: who and when from the first, usage and end from the last."""

    first: _Row
    model: str
    usage: msgspec.Raw
    stop_reason: str | None
    last_seen: str
    line: int
    tools: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Memory:
    """What one import remembers from file to file: ids and the types of agents, never calls."""

    booked: set[str] = field(default_factory=set[str])
    copied: set[str] = field(default_factory=set[str])
    launches: dict[str, str] = field(default_factory=dict[str, str])
    agents: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])


def find_transcripts(paths: Iterable[Path], tally: Tally) -> list[Path]:
    """The transcripts under some paths, in the order that lets the first one that holds a call own it."""
    files = find_files(paths, lambda name: name.endswith((".jsonl", ".jsonl.gz")), tally)
    return sorted(files, key=lambda path: (path.name.startswith("agent-"), _modified_ns(path), path))


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # it went away; reading it will say so


def read_transcripts(
    files: Sequence[Path],
    *,
    book: PriceBook,
    now: datetime,
    tally: Tally,
    overrides: Scope = NOBODY,
    progress: Progress = no_progress,
) -> Iterator[Attempt]:
    """The calls of some transcripts (from ``find_transcripts``), each once. ``now`` must have a time zone."""
    memory = _Memory()
    for path in files:
        for call in _read_file(path, memory, tally, progress).values():
            attempt = _attempt(call, path, memory, book, now, overrides, tally)
            if attempt is not None:
                yield attempt
    if missing := len(memory.copied - memory.booked):
        tally.skip("subagent call known only from progress rows: its transcript is not among the files", count=missing)


def _read_file(path: Path, memory: _Memory, tally: Tally, progress: Progress) -> dict[tuple[str, str], _Call]:
    calls: dict[tuple[str, str], _Call] = {}
    try:
        for line in read_lines(path, tally, progress):
            _take_line(line, path, calls, memory, tally)
    except OSError as error:
        tally.skip("file cannot be read to its end", str(error))
    return calls


def _take_line(line: Line, path: Path, calls: dict[tuple[str, str], _Call], memory: _Memory, tally: Tally) -> None:
    data = line.data
    # Most lines hold no usage; looking for two words is ten times cheaper than reading JSON.
    if not ((b'"usage"' in data and b'"assistant"' in data) or (b'"toolUseResult"' in data and b'"agentId"' in data)):
        return
    try:
        row = _ROW.decode(data)
    except UNREADABLE as error:
        reason = "row is not what Claude Code writes" if line.complete else "last line is not complete yet"
        tally.skip(reason, f"{path}:{line.number} ({error})")
        return
    if row.type == "assistant":
        _take_row(row, calls, memory, tally, f"{path}:{line.number}", line.number)
    elif row.type == "progress":
        _take_progress(row, memory)
    elif row.type == "user":
        _take_launch(row, memory)


def _take_row(
    row: _Row, calls: dict[tuple[str, str], _Call], memory: _Memory, tally: Tally, place: str, number: int
) -> None:
    message = row.message
    if message is None or message.usage == _NULL:
        return
    usage = message.usage.copy()  # a view would keep the whole line
    if row.is_api_error_message or message.model in (None, "", "<synthetic>"):
        tally.skip("written by Claude Code itself: an error or a notice, not a call", place)
        return
    assert message.model is not None
    key = (message.id or "", row.request_id or "")
    if not any(key):
        key = (row.uuid or place, "")
    call = calls.get(key)
    if call is None:
        blocks = message.content
        call = calls[key] = _Call(row, message.model, usage, message.stop_reason, "", number)
        message.content, message.usage = None, _NULL  # views too, and not needed any more
    else:
        blocks = message.content
        call.usage = usage
        call.stop_reason = message.stop_reason or call.stop_reason
        call.line = number
    call.last_seen = row.timestamp or call.last_seen
    for block in blocks if isinstance(blocks, list) else ():
        if block.type in _TOOL_USES and block.name:
            call.tools.append(block.name)
            if block.id and block.name in ("Task", "Agent"):
                start = _decoded(_AGENT_META, block.input)
                if start is not None and start.subagent_type:
                    memory.launches[block.id] = start.subagent_type


def _take_progress(row: _Row, memory: _Memory) -> None:
    progress = _decoded(_PROGRESS, row.data)
    copy = progress.message if progress is not None else None
    if copy is not None and copy.type == "assistant" and copy.message is not None and copy.message.id:
        memory.copied.add(_attempt_id(copy.message.id))


def _take_launch(row: _Row, memory: _Memory) -> None:
    """The answer of the tool that started a subagent says its id; the call says its type."""
    launch = _decoded(_LAUNCH, row.tool_use_result)
    content = row.message.content if row.message is not None else None
    for block in content if isinstance(content, list) else ():
        kind = memory.launches.get(block.tool_use_id or "")
        if kind and launch is not None and launch.agent_id:
            memory.agents[(row.session_id or "", launch.agent_id)] = kind


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes | msgspec.Raw) -> _T | None:
    """What lies beside the usage comes in many shapes; one that is another tool's tells nothing here."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return None


def _attempt(
    call: _Call, path: Path, memory: _Memory, book: PriceBook, now: datetime, overrides: Scope, tally: Tally
) -> Attempt | None:
    row = call.first
    place = f"{path}:{call.line}"
    message_id = row.message.id if row.message is not None and row.message.id else ""
    own_id = row.request_id or row.uuid
    if not message_id and not own_id:
        tally.skip("call without an id: importing it again would book it again", place)
        return None
    attempt_id = _attempt_id(message_id) if message_id else f"claude-code:{own_id}"
    if attempt_id in memory.booked:
        tally.skip("the same call again: resumed and forked sessions copy their history", place)
        return None
    try:
        at = parse_time(row.timestamp or "")
        ended = parse_time(call.last_seen)
    except ValueError as error:
        tally.skip("row without a time", f"{place} ({error})")
        return None
    if call.stop_reason is None and abs(now - ended) < _STILL_WRITTEN:
        tally.skip("still being written: the next import takes it", place)
        return None
    memory.booked.add(attempt_id)
    response = _Response(message_id, call.model, call.stop_reason, call.usage)
    reading = DIALECT.read_response(msgspec.json.encode(response))
    return observed(
        replace(reading, tools=tuple(dict.fromkeys(call.tools))),
        book,
        attempt_id=attempt_id,
        operation="messages",
        at=at,
        provider=attempt_id.partition(":")[0] if message_id else "anthropic",
        model=call.model,
        scope=_scope(row, path, memory),
        overrides=overrides,
    )


def _attempt_id(message_id: str) -> str:
    return f"{_PROVIDERS.get(message_id[:9], 'anthropic')}:{message_id}"


def _scope(row: _Row, path: Path, memory: _Memory) -> Scope:
    origin = row.forked_from.session_id if row.forked_from is not None else None
    session = origin or row.session_id or path.name.partition(".")[0]
    agent_id = row.agent_id
    if agent_id is None and path.name.startswith("agent-"):
        agent_id = path.name.partition(".")[0].removeprefix("agent-")
    if agent_id is None and row.is_sidechain:
        agent_id = "sidechain"
    task = f"claude-code:{session}"
    labels = {"git_branch": short(row.git_branch), "claude_code_version": short(row.version)}
    return Scope(
        project=last_part(row.cwd),
        agent="claude-code" if agent_id is None else _agent_type(session, agent_id, path, memory),
        session=short(session),
        task=short(task if agent_id is None else f"{task}/{agent_id}"),
        parent_task="" if agent_id is None else short(task),
        labels=make_labels({name: value for name, value in labels.items() if value}),
    )


def _agent_type(session: str, agent_id: str, path: Path, memory: _Memory) -> str:
    """What kind of subagent it is: from its call, from the file beside its transcript, from its own name."""
    key = (session, agent_id)
    kind = memory.agents.get(key)
    if kind is None:
        named = _NAMED_AGENT.fullmatch(agent_id)
        kind = named[1] if named else "subagent"
        try:
            beside = _decoded(_AGENT_META, path.with_name(f"agent-{agent_id}.meta.json").read_bytes())
        except OSError:
            beside = None  # older versions write no such file
        if beside is not None and beside.agent_type:
            kind = beside.agent_type
        memory.agents[key] = kind
    return short(kind)
