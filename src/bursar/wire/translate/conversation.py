"""A conversation in no provider's words: what translation between dialects passes through.

Rule 1: a dialect reads its own JSON into these values and writes these values as its own JSON (``Speaker``).
Rule 2: nothing is dropped in silence. What a request asks for and the other side cannot say raises ``Untranslatable`` with
        the field, before any money is spent. Only what changes neither the answer nor its cost may be left out
        (``user``, ``metadata``, ``stream_options``, cache marks where the other side caches by itself).
Rule 3: what only its own provider can read (a signature of thinking, an encrypted block) goes back to the dialect that it
        came from; to any other dialect the thinking is left out, as all of them allow.
Rule 4: usage is Bursar's own, inclusive (``core.usage``): the meters of each dialect know how to read it, this knows how to
        say it again.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol, TypeAlias

from bursar.core.usage import Usage
from bursar.core.values import valueclass

__all__ = [
    "FINISHES",
    "Answered",
    "Asked",
    "Audio",
    "Began",
    "Counted",
    "DialectId",
    "Document",
    "Event",
    "Failed",
    "Finish",
    "Finished",
    "Format",
    "Image",
    "Message",
    "Part",
    "Sent",
    "Speaker",
    "StreamReader",
    "StreamWriter",
    "Text",
    "TextDelta",
    "Thinking",
    "ThinkingDelta",
    "Tool",
    "ToolBegan",
    "ToolChoice",
    "ToolDelta",
    "ToolResult",
    "ToolUse",
    "Untranslatable",
]

DialectId: TypeAlias = Literal["openai_chat", "anthropic", "gemini"]
"""The dialects that are translated: the ids of their ``wire.dialect.Dialect``."""

Finish: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]
FINISHES: Final[tuple[Finish, ...]] = ("stop", "length", "tool_calls", "content_filter", "refusal")


class Untranslatable(ValueError):  # noqa: N818 - it is a reason to pass a rung over, not a failure of the program
    """What the other dialect cannot say: ``field`` is the JSON path in the request as it came."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


# --- what is said -------------------------------------------------------------------------------------------------


@valueclass
class Text:
    """``cache`` is a mark that the prompt's prefix up to here is to be cached: "" none, else how long ("5m", "1h")."""

    text: str
    cache: str = ""


@valueclass
class Image:
    """Either ``data`` (base64) with its ``media_type``, or a ``url``. ``detail`` is OpenAI's: low, high, auto or ""."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""
    cache: str = ""


@valueclass
class Document:
    """A file to read, such as a PDF: ``data`` in base64, or a ``url``."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""
    cache: str = ""


@valueclass
class Audio:
    """Sound to listen to, in base64."""

    media_type: str
    data: str


@valueclass
class ToolUse:
    """The model asks for a tool. ``arguments`` is the JSON text of an object. ``signature`` is what Gemini puts on it."""

    id: str
    name: str
    arguments: str
    signature: str = ""
    cache: str = ""


@valueclass
class ToolResult:
    """What a tool answered. ``name`` is the tool's where the dialect says it, or found from the use with the same id."""

    id: str
    name: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False
    cache: str = ""


@valueclass
class Thinking:
    """Reasoning that is shown. ``signature`` proves it to ``origin`` alone; ``hidden`` is a block only it can read."""

    text: str
    signature: str = ""
    origin: DialectId | Literal[""] = ""
    hidden: str = ""


Part: TypeAlias = Text | Image | Document | Audio | ToolUse | ToolResult | Thinking


@valueclass
class Message:
    """One turn. What tools answered is part of a user's turn, as all but OpenAI say it. ``name`` is OpenAI's.

    ``system`` marks an instruction of the system in the middle of the conversation (its role is "user", its parts are
    texts): OpenAI and newer Claude models can say it. Who cannot raises ``Untranslatable``: moved to the front, or said
    by the user, it would be another instruction."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]
    name: str = ""
    system: bool = False


# --- what is asked ------------------------------------------------------------------------------------------------


@valueclass
class Tool:
    """A function that the model may ask for; ``schema`` is the JSON Schema of its arguments, None where there is none."""

    name: str
    description: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache: str = ""


@valueclass
class ToolChoice:
    """``mode`` "tool" means the one ``named``. ``parallel`` False allows one use a turn; None leaves it to the provider."""

    mode: Literal["auto", "none", "required", "tool"] | None = None
    named: str = ""
    parallel: bool | None = None


@valueclass
class Format:
    """The answer is JSON; with a ``schema`` it follows it. ``held``: the client's API holds every answer to its schema, without
    being asked to; whoever can hold it to this one does, who cannot asks for it."""

    schema: dict[str, Any] | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None
    held: bool = False


@valueclass
class Asked:
    """A request. None and empty mean: not said. ``effort`` is one of ``core.ladder.EFFORTS``, ``thinking_tokens`` a budget for
    thinking (0: none, -1: as the model likes); at most one of the two is said. ``show_thinking``: thinking is to be shown.
    ``choices`` is how many answers are wanted. ``asks_usage`` is OpenAI's ``stream_options.include_usage``."""

    model: str
    messages: tuple[Message, ...]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output_cap: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    effort: str = ""
    thinking_tokens: int | None = None
    show_thinking: bool = False
    format: Format | None = None
    choices: int = 1
    stream: bool = False
    asks_usage: bool = False


@valueclass
class Sent:
    """A request ready for a provider: the path at it (beginning with a slash), its query, the body, and headers it needs."""

    path: str
    query: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


# --- what is answered ---------------------------------------------------------------------------------------------


@valueclass
class Answered:
    """A whole answer, with one choice."""

    id: str
    model: str
    parts: tuple[Part, ...]
    finish: Finish
    usage: Usage | None
    stopped_by: str = ""
    """The stop sequence that ended it, where that is said."""


@valueclass
class Began:
    """A stream's first event. ``usage`` is what is known of the input by then."""

    id: str
    model: str
    usage: Usage | None = None


@valueclass
class TextDelta:
    text: str


@valueclass
class ThinkingDelta:
    """More thinking, or its ``signature``, which comes last; ``hidden`` as in ``Thinking``."""

    text: str = ""
    signature: str = ""
    origin: DialectId | Literal[""] = ""
    hidden: str = ""


@valueclass
class ToolBegan:
    """``index`` counts the tool uses of the answer from 0."""

    index: int
    id: str
    name: str
    signature: str = ""


@valueclass
class ToolDelta:
    """A piece of the JSON text of the arguments of the tool use ``index``."""

    index: int
    arguments: str


@valueclass
class Finished:
    finish: Finish
    stopped_by: str = ""


@valueclass
class Counted:
    """The usage so far; the last one counts."""

    usage: Usage


@valueclass
class Failed:
    """The provider reported an error inside the stream: nothing follows. ``status`` is the HTTP status it is like."""

    status: int
    message: str


Event: TypeAlias = Began | TextDelta | ThinkingDelta | ToolBegan | ToolDelta | Finished | Counted | Failed


class StreamReader(Protocol):
    """One dialect's stream, cut anywhere, as events."""

    def feed(self, chunk: bytes, /) -> list[Event]:
        """Raises ValueError for what is no stream of this dialect."""
        ...

    def finish(self) -> list[Event]:
        """What remains at the end of the stream. A stream that broke off has no ``Finished``."""
        ...


class StreamWriter(Protocol):
    """Events as one dialect's stream, byte-valid for its SDKs however the events are spread over calls."""

    @property
    def content_type(self) -> str: ...

    def write(self, event: Event, /) -> bytes:
        """b"" where the dialect has nothing to say for it yet."""
        ...

    def close(self) -> bytes:
        """What ends the stream after its last event (OpenAI: the usage chunk if asked for, and ``[DONE]``)."""
        ...


class Speaker(Protocol):
    """One dialect, both ways."""

    @property
    def id(self) -> DialectId: ...

    def read_request(self, path: str, query: str, body: bytes, /) -> Asked:
        """Raises Untranslatable for what no conversation can hold, wire.dialect.BadRequest for what cannot be read."""
        ...

    def write_request(self, asked: Asked, model: str, /) -> Sent:
        """The same request to ``model``, complete. Raises Untranslatable."""
        ...

    def read_answer(self, body: bytes, /) -> Answered:
        """Raises ValueError."""
        ...

    def write_answer(self, answered: Answered, /) -> bytes: ...

    def reader(self) -> StreamReader: ...

    def writer(self, *, model: str, created_s: int, asks_usage: bool) -> StreamWriter:
        """``model`` is how the client called it, for where the stream's own events do not say one."""
        ...
