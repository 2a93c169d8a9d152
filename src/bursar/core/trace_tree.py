"""The tree of one trace: which of its spans and records are paid for by themselves, and for whom.

Rule 1: the order of arrival decides nothing. What arrives late may change any verdict above and below it: ``decide`` tells
        the verdicts of what is new and of everything it touches, and of nothing else.
Rule 2: flags of what is below a place are only ever raised, and pass each place once; where one would fall (a span that
        came again with another parent, a circle) the tree is built again.
Rule 3: a span that is its own ancestor has no parent, nor has one whose parent never came.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from .observations import Observation
from .scopes import LABELS_MAX, NOBODY, SCOPE_COLUMNS, Scope
from .tool_prices import ToolPrices
from .values import valueclass

__all__ = ["Fate", "Nearer", "Trace", "Verdict", "figures", "metrics_key", "record_key", "trace_key"]

Fate: TypeAlias = Literal["charged", "linked", "contained", "waiting", "shape"]
"""Charged by itself; charged elsewhere; its figures are part of what is below or above it; not before the trace rests;
nothing that is paid for."""

# What is somewhere below: a model span with figures, any figures, a nearer door's charge.
_MODEL, _FIGURES, _LIVE = 1, 2, 4
_SAME_TOOL_STEPS: Final = 3
_LOG, _METRIC = "log.", "metric."


@valueclass
class Nearer:
    """A charge that a nearer door has made under a span."""

    attempt_id: str
    kind: Literal["model", "tool"]
    trace_id: str
    span_id: str


@valueclass
class Verdict:
    """What becomes of one observation. ``scope`` is complete; ``link`` names the attempt or observation that is charged."""

    key: str
    observation: Observation
    scope: Scope
    fate: Fate
    link: str = ""


def figures(observation: Observation) -> bool:
    """Whether an observation says how much was used, or what that cost."""
    reading = observation.reading
    return reading is not None and (reading.usage is not None or reading.reported is not None)


def record_key(observation: Observation) -> str:
    """What an observation is known by in its trace: its span, or a digest of what a record says."""
    if observation.source == "span":
        return observation.span_id
    reading = observation.reading
    said = (
        observation.name, observation.trace_id, observation.span_id, str(observation.started_us), str(observation.ended_us),
        observation.provider, observation.model_asked, observation.tool, observation.group,
        reading.response_id if reading else "", reading.model if reading else "", str(reading.usage) if reading else "",
    )  # fmt: skip
    return (_LOG if observation.source == "log" else _METRIC) + _digest("\x1f".join(said))


def trace_key(observation: Observation) -> str:
    """Which observations are looked at together: those of a trace; the metrics of a group; else each by itself."""
    if observation.source == "metric":
        return metrics_key(observation.group)
    return observation.trace_id or record_key(observation)


def metrics_key(group: str) -> str:
    """Where the metrics of a group are looked at."""
    return _METRIC + _digest(group)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class _Node:
    """A place in the tree. ``seen`` is None where only children or nearer charges have named it."""

    __slots__ = (
        "bits",
        "children",
        "key",
        "lives",
        "parent",
        "scope",
        "seen",
        "task",
        "tool_lives",
        "top",
        "twins",
        "under",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.seen: Observation | None = None
        self.parent = ""
        self.children: tuple[str, ...] | list[str] = ()  # most have none: a list is made for those that do
        self.bits = 0
        self.lives: tuple[str, ...] = ()
        self.tool_lives: tuple[str, ...] = ()
        self.twins: tuple[str, ...] = ()  # spans below that saw the same call of the same tool
        self.top = key  # towards the root, for finding cycles
        self.scope = NOBODY
        self.task = ""
        self.under = ""  # the nearest model span above that states figures

    def add(self, child: str) -> None:
        if isinstance(self.children, tuple):
            self.children = []
        self.children.append(child)

    def own_bits(self) -> int:
        bits = _LIVE | _FIGURES if self.lives else 0
        seen = self.seen
        if seen is not None and seen.reading is not None and figures(seen):
            bits |= _FIGURES
            if seen.kind == "model" and seen.source == "span":
                bits |= _MODEL
        return bits

    @property
    def is_model_span(self) -> bool:
        return self.seen is not None and self.seen.kind == "model" and self.seen.source == "span"


class Trace:
    """Everything known of one trace. ``len`` is how many places its tree has."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._base = Scope(task=key) if key and not key.startswith((_LOG, _METRIC)) else NOBODY
        self._nodes: dict[str, _Node] = {}
        self._touched: set[str] = set()
        self._waiting: set[str] = set()
        self._stale = False
        self._fresh = False  # it came whole, and nothing has been decided or has come since
        self.ended = False

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    @property
    def waiting(self) -> bool:
        """Whether something is charged only when the trace has come to rest."""
        return bool(self._waiting)

    def take_all(self, observations: Sequence[Observation]) -> None:
        """Take what came together. Where those are the first spans of a trace one pass does."""
        if self._nodes or not self._grow(observations):
            for observation in observations:
                self.take(observation)

    def take(self, observation: Observation) -> bool:
        """False when it says nothing new. Of several with one id the one that ended last counts."""
        is_span = observation.source == "span"
        key = observation.span_id if is_span else record_key(observation)
        node = self._nodes.get(key) or self._node(key)
        before = node.seen
        parent = _parent_of(observation)
        if before is None:
            node.seen = observation
            bits = node.own_bits()
            if parent:
                self._attach(node, parent)
        elif before == observation or _order(before) >= _order(observation):
            return False
        else:
            lost = node.own_bits()
            node.seen = observation
            bits = node.own_bits()
            if parent != _parent_of(before) or lost & ~bits:
                self._stale = True  # flags are only ever raised: where one falls, all are found again
        if is_span and not observation.parent_id:
            self.ended = True
        if bits := bits | node.bits:
            self._push(node.parent, bits)
        self._touched.add(key)
        if node.children:
            self._touch_records(node, _SAME_TOOL_STEPS)
        return True

    def take_nearer(self, live: Nearer) -> None:
        """A nearer door has charged for something under a span."""
        node = self._node(live.span_id)
        lives = node.lives if live.kind == "model" else node.tool_lives
        if live.attempt_id in lives:
            return
        if live.kind == "model":
            node.lives = (*lives, live.attempt_id)
        else:
            node.tool_lives = (*lives, live.attempt_id)
        self._touched.add(node.key)
        self._touch_records(node, 1)
        if live.kind == "model":
            self._push(node.parent, _LIVE | _FIGURES)

    def touch(self, key: str) -> None:
        """Tell the verdict of an observation again, the next time."""
        if key in self._nodes:
            self._touched.add(key)

    def decide(self, *, at_rest: bool, tools: ToolPrices) -> list[Verdict]:
        """The verdicts that what came since the last time may have changed, before responses are compared (``contest``)."""
        if self._stale:
            self._rebuild()
        nodes = self._nodes
        touched = self._touched
        self._touched = set()
        if self._fresh and not touched:
            changed = set(nodes)
        else:
            if self._fresh:
                touched.update(nodes)
            if at_rest:
                touched |= self._waiting
            changed = self._rescope(touched)
        self._fresh = False
        twins: set[str] = set()
        for key in changed:
            seen = nodes[key].seen
            if seen is not None and seen.kind == "tool":
                twins.update(self._find_twin(nodes[key], seen))
        verdicts: list[Verdict] = []
        for key in sorted(changed | twins):
            node = nodes[key]
            if node.seen is not None:
                fate, link = self._fate(node, node.seen, tools, at_rest=at_rest)
                (self._waiting.add if fate == "waiting" else self._waiting.discard)(key)
                verdicts.append(Verdict(key, node.seen, node.scope, fate, link))
        return verdicts

    # --- the tree ---------------------------------------------------------------------------------------------

    def _node(self, key: str) -> _Node:
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(key)
            node.scope = self._base
        return node

    def _grow(self, observations: Sequence[Observation]) -> bool:
        """Build the tree of spans each of which came once. False where that is not all there is, and then nothing was built."""
        nodes: dict[str, _Node] = {}
        for seen in observations:
            key = seen.span_id
            if seen.source != "span" or key in nodes:
                return False
            node = nodes[key] = _Node(key)
            node.seen = seen
            node.parent = "" if seen.parent_id == key else seen.parent_id
        order: list[_Node] = []
        for node in tuple(nodes.values()):
            above = nodes.get(node.parent) if node.parent else None
            if above is not None:
                above.add(node.key)
            elif node.parent:  # it has not come
                above = nodes[node.parent] = _Node(node.parent)
                above.add(node.key)
                order.append(above)
            else:
                order.append(node)
            node.top = node.parent or node.key
        self._nodes = nodes
        for node in order:  # which grows: those below stand behind those above
            self._scope(node)
            if node.children:
                order += [nodes[key] for key in node.children]
        if len(order) < len(nodes):  # a circle has no beginning
            self._nodes = {}
            return False
        for node in reversed(order):
            bits = node.bits | node.own_bits() if node.seen is not None and node.seen.reading is not None else node.bits
            if bits and node.parent:
                nodes[node.parent].bits |= bits
        self.ended = any(not seen.parent_id for seen in observations)
        self._fresh = True
        return True

    def _attach(self, node: _Node, parent: str) -> None:
        if parent == node.key:
            return
        above = self._nodes.get(parent) or self._node(parent)
        node.parent = parent
        above.add(node.key)
        if self._top(parent) == node.key:
            self._stale = True  # it would be its own ancestor
        node.top = parent

    def _top(self, key: str) -> str:
        nodes = self._nodes
        node = nodes[key]
        while node.top != node.key:
            above = nodes[node.top]
            node.top = above.top
            node = above
        return node.key

    def _push(self, key: str, bits: int) -> None:
        """Raise flags on the way up, as far as they are new: each flag passes each place once."""
        nodes = self._nodes
        while key and bits:
            node = nodes[key]
            bits &= ~node.bits
            if not bits:
                return
            node.bits |= bits
            self._touched.add(key)
            if node.is_model_span and node.children:
                self._touch_records(node, 1)
            key = node.parent

    def _touch_records(self, node: _Node, steps: int) -> None:
        """What stands below a place and is judged by it: records, and tools that may have seen the same call."""
        for key in node.children:
            child = self._nodes[key]
            if child.seen is None or child.seen.source != "span" or child.seen.kind in ("tool", "step"):
                self._touched.add(key)
                if steps > 1:
                    self._touch_records(child, steps - 1)

    def _rebuild(self) -> None:
        """Find everything again: a parent has changed, or a circle was closed."""
        self._stale = False
        nodes = self._nodes
        for node in tuple(nodes.values()):
            if node.seen is not None and (parent := _parent_of(node.seen)):
                self._node(parent)
        for node in nodes.values():
            node.children, node.bits, node.top, node.twins = (), 0, node.key, ()
            node.parent = _parent_of(node.seen) if node.seen is not None else ""
        for key in self._circle():
            nodes[key].parent = ""
        for node in nodes.values():
            if node.parent:
                node.top = node.parent
                nodes[node.parent].add(node.key)
        for node in nodes.values():
            self._push(node.parent, node.own_bits())
        self._touched.update(nodes)

    def _circle(self) -> list[str]:
        """Every place that is its own ancestor."""
        nodes = self._nodes
        done: set[str] = set()
        found: list[str] = []
        for start in nodes:
            path: dict[str, int] = {}
            key = start
            while key and key not in done and key not in path:
                path[key] = len(path)
                key = nodes[key].parent
            if key in path:
                found.extend(list(path)[path[key] :])
            done.update(path)
        return found

    # --- scopes -----------------------------------------------------------------------------------------------

    def _rescope(self, touched: set[str]) -> set[str]:
        """Find the scopes of what was touched, and of what below it gets another one. Returns all of them."""
        nodes = self._nodes
        left = set(touched)
        changed = set(touched)
        while left:
            stack = [next(iter(left))]
            while (above := nodes[stack[-1]].parent) in left:
                stack.append(above)
            while stack:  # from the top down: what stands above is known first
                key = stack.pop()
                left.discard(key)
                node = nodes[key]
                before = (node.scope, node.task, node.under)
                self._scope(node)
                if before != (node.scope, node.task, node.under):
                    changed.add(key)
                    stack.extend(node.children)
                elif key in touched:
                    stack.extend(child for child in node.children if nodes[child].under != self._under_below(node))
        return changed

    def _scope(self, node: _Node) -> None:
        own = node.seen.scope if node.seen is not None else NOBODY
        scope, task, node.under = self._base, "", ""
        if node.parent:
            above = self._nodes[node.parent]
            scope, task, node.under = above.scope, above.task, self._under_below(above)
        # Most say nothing of their own: they share one scope, and nothing is compared or looked up.
        node.scope, node.task = (scope, task) if own is NOBODY else _inherited(own, scope, task)

    def _under_below(self, node: _Node) -> str:
        return node.key if node.is_model_span and node.seen is not None and figures(node.seen) else node.under

    # --- verdicts ---------------------------------------------------------------------------------------------

    def _fate(self, node: _Node, seen: Observation, tools: ToolPrices, *, at_rest: bool) -> tuple[Fate, str]:
        if seen.kind == "tool":
            return self._tool_fate(node, seen, tools)
        if seen.reading is None and seen.kind != "model":
            return "shape", ""
        if seen.kind == "model" and seen.source != "span":
            return self._record_fate(node, seen)
        if seen.kind == "model" and node.bits & _MODEL:
            return "contained", ""
        if node.lives or node.bits & _LIVE:
            counts = seen.kind == "model" or figures(seen)
            return ("linked", self._live_below(node)) if counts else ("shape", "")
        if seen.kind == "model":
            # What it used was not said: where something around it says so, that is charged.
            hidden = seen.reading is None or node.under or node.bits & _FIGURES
            return ("shape" if hidden and not figures(seen) else "charged"), ""
        if not figures(seen):
            return "shape", ""
        if node.bits & _FIGURES or node.under:
            return "contained", node.under
        return ("charged" if at_rest else "waiting"), ""

    def _tool_fate(self, node: _Node, seen: Observation, tools: ToolPrices) -> tuple[Fate, str]:
        if node.tool_lives:
            return "linked", min(node.tool_lives)
        if node.twins:
            return "linked", min(node.twins)
        if seen.source != "span" and node.parent:
            above = self._nodes[node.parent]
            if above.seen is not None and above.seen.kind == "tool" and above.seen.tool == seen.tool:
                return "linked", above.key
        if tools.find(seen.tool) is not None:
            return "charged", ""
        if not figures(seen):
            return "shape", ""
        return ("contained" if node.bits & (_FIGURES | _LIVE) else "charged"), ""

    def _record_fate(self, node: _Node, seen: Observation) -> tuple[Fate, str]:
        """A log record says once more what the span says in which it was written."""
        if node.under:
            return "linked", node.under
        above = self._nodes[node.parent] if node.parent else None
        if above is not None and (above.lives or (above.is_model_span and above.bits & (_MODEL | _LIVE))):
            return "linked", self._live_below(above) or above.key
        return ("charged" if seen.reading is not None else "shape"), ""

    def _live_below(self, node: _Node) -> str:
        """A nearer door's attempt at or below a place, the same one however they arrived."""
        while not node.lives:
            below = [key for key in node.children if self._nodes[key].lives or self._nodes[key].bits & _LIVE]
            if not below:
                return ""
            node = self._nodes[min(below)]
        return min(node.lives)

    def _find_twin(self, node: _Node, seen: Observation) -> list[str]:
        """The spans close above a tool's that stand for the same call: instrumentations of the framework and of the
        protocol both see it. Two that name different calls are two calls."""
        if seen.source != "span":
            return []
        key = node.parent
        for _ in range(_SAME_TOOL_STEPS):
            above = self._nodes[key] if key else None
            if above is None or above.seen is None or above.seen.kind not in ("tool", "step"):
                return []
            if above.seen.kind == "tool":
                if above.seen.tool != seen.tool or not _same_call(above.seen, seen):
                    return []
                if node.key not in above.twins:
                    above.twins = (*above.twins, node.key)
                return [above.key]
            key = above.parent
        return []


def _same_call(above: Observation, below: Observation) -> bool:
    one = above.reading.response_id if above.reading else ""
    other = below.reading.response_id if below.reading else ""
    return not one or not other or one == other


def _parent_of(observation: Observation) -> str:
    """The span an observation stands below: a record stands below the one it was written in."""
    parent = observation.parent_id if observation.source == "span" else observation.span_id
    return "" if observation.source == "span" and parent == observation.span_id else parent


def _order(observation: Observation) -> tuple[bool, int, bool, str]:
    """Of several with one id the greatest counts, whatever came first."""
    return (
        observation.door != "import",
        observation.ended_us,
        observation.reading is not None,
        repr(observation),
    )


@lru_cache(maxsize=8192)
def _inherited(own: Scope, above: Scope, above_task: str) -> tuple[Scope, str]:
    """A complete scope, and the nearest task that was named."""
    if own == NOBODY:
        return above, above_task
    columns = {name: getattr(own, name) or getattr(above, name) for name in SCOPE_COLUMNS}
    if own.task and own.task != above_task:
        parent = own.parent_task or above_task
        columns["parent_task"] = parent if parent != own.task else ""
    labels = own.labels
    if above.labels:
        merged = {**dict(above.labels), **dict(own.labels)}
        kept = sorted(merged.items(), key=lambda pair: (pair[0] not in dict(own.labels), pair))[:LABELS_MAX]
        labels = tuple(sorted(kept))
    return Scope(labels=labels, **columns), own.task or above_task
