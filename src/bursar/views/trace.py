"""The whole life of one task: its tree, when what happened, what decided how long it took, where the money went.

Rule 1: the tree is of tasks, of the spans in them, and of the attempts in those. Each attempt is in one place, however
        many spans point at it, and counts there and in everything above it, once. What is in no span is in its task.
Rule 2: a task's ``own`` is what its own attempts cost, in whatever span; a span's is what was asked in it directly.
        ``total`` adds everything below. A task's first span, when it is the only one, is the task itself.
Rule 3: links between tasks, and between spans, are what callers said. A circle is cut where it closes, and told.
Rule 4: what a limit leaves out is counted; figures are always over everything. Findings, the critical path and what is said
        of kept answers look at ``ATTEMPTS_MAX`` attempts, the first ones, and at ``SPANS_MAX`` spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._sql import statement
from ._tree import Draft, Place, draft_all, place_of, tree_of_tasks
from .asking import BadQuestion
from .critical import Part, Stretch, critical_path
from .feed import Step
from .findings import Brief, Finding, findings
from .measures import EMPTY, Measures, cost_text, share, time_text
from .spans import Arranged, Key, Span, arrange

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = [
    "ATTEMPTS_MAX",
    "SPANS_MAX",
    "Kept",
    "Node",
    "NoTask",
    "Outcome",
    "PathStep",
    "SeveralTasks",
    "TaskAnswer",
    "TaskTree",
    "task",
]

_NODES_MAX: Final = 100_000
SPANS_MAX: Final = 10_000
ATTEMPTS_MAX: Final = 100_000
_STEPS_MAX: Final = 10_000
_PATH_MAX: Final = 200
_FINDINGS_MAX: Final = 50
_CANDIDATES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task, and what that was worth (None: not said)."""

    outcome: str
    value_nanousd: int | None
    note: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept answers of a task: what they avoided is part of no spend. ``unknown`` counts those of which it is not known."""

    answers: int
    avoided_nanousd: int
    unknown: int

    @classmethod
    def of(cls, briefs: Sequence[Brief]) -> Kept:
        kept = [brief.avoided_nanousd for brief in briefs if brief.is_kept]
        known = [amount for amount in kept if amount is not None]
        return cls(len(kept), sum(known), len(kept) - len(known))

    def to_json(self) -> dict[str, Any]:
        avoided_usd = cost_text(self.avoided_nanousd if self.unknown < self.answers or not self.answers else None)
        return {"answers": self.answers, "avoided_usd": avoided_usd, "unknown_cost": self.unknown}


@dataclass(frozen=True, slots=True)
class Node:
    """One task or span of a tree: its own figures, those with everything below it, its attempts and what is in it, in order.

    Attempts of one call stand together. ``kind`` is task, agent, step, tool or model; ``name`` is a task's id, a tool's or a span's name. ``status`` of a task
    without a span of its own is how its last own attempt ended, "" when it has none. ``last_us`` is when the last
    attempt of the node itself or below began. ``critical_us`` is how long the critical path was in the node itself.
    """

    kind: str
    name: str
    task: str
    parent: str
    agent: str
    user: str
    session: str
    status: str
    error: str
    trace_id: str
    span_id: str
    size_bytes: int | None
    first_us: int
    last_us: int
    ended_us: int
    critical_us: int
    own: Measures
    total: Measures
    errors: int
    all_errors: int
    outcome: Outcome | None
    steps: tuple[Step, ...]
    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class PathStep:
    """A piece of the critical path: in an attempt, or in a task or span itself, where nothing below was under way."""

    kind: str
    name: str
    task: str
    span_id: str
    attempt_id: str
    started_us: int
    ended_us: int


@dataclass(frozen=True, slots=True)
class TaskTree:
    """A task with everything below it. ``circles`` names the links that were cut because they close a circle.

    ``path`` is the critical path in order, its longest pieces when there are many; ``path_us`` sums all of it by kind
    (model, tool, own: what tasks, agents and steps did themselves, or nobody recorded). ``critical`` has the length of
    the path in each attempt by its sequence. ``notes`` say what was odd about the spans.
    """

    root: Node
    task_count: int
    span_count: int
    circles: tuple[str, ...]
    notes: tuple[str, ...]
    path: tuple[PathStep, ...]
    path_left_out: int
    path_us: Mapping[str, int]
    critical: Mapping[int, int]
    kept: Kept
    findings: tuple[Finding, ...]
    findings_left_out: int
    steps_left_out: int
    spans_left_out: int
    attempts_left_out: int
    tasks_left_out: bool

    def to_json(self) -> dict[str, Any]:
        root = self.root
        length = root.ended_us - root.first_us
        return {
            **_node_json(root, self),
            "tasks": self.task_count,
            "spans": self.span_count,
            "circles": list(self.circles),
            "notes": list(self.notes),
            "critical_path": {
                "duration_ms": _ms(length),
                "model_ms": _ms(self.path_us["model"]),
                "tool_ms": _ms(self.path_us["tool"]),
                "own_ms": _ms(self.path_us["own"]),
                "steps": [
                    {
                        "kind": step.kind,
                        "name": step.name,
                        "task": step.task,
                        "span_id": step.span_id,
                        "attempt_id": step.attempt_id,
                        "offset_ms": _ms(step.started_us - root.first_us),
                        "duration_ms": _ms(step.ended_us - step.started_us),
                        "share": share(step.ended_us - step.started_us, length),
                    }
                    for step in self.path
                ],
                "steps_left_out": self.path_left_out,
            },
            "kept": self.kept.to_json(),
            "findings": [finding.to_json(root.first_us) for finding in self.findings],
            "findings_left_out": self.findings_left_out,
            "steps_left_out": self.steps_left_out,
            "spans_left_out": self.spans_left_out,
            "attempts_not_looked_at": self.attempts_left_out,
            "tasks_left_out": self.tasks_left_out,
        }


@dataclass(frozen=True, slots=True)
class NoTask:
    """No task has this id, or an id that begins with it."""

    id: str


@dataclass(frozen=True, slots=True)
class SeveralTasks:
    """More than one task id begins with the text, and not all are below one of them: some, the latest first."""

    id: str
    candidates: tuple[str, ...]
    more: bool


TaskAnswer: TypeAlias = TaskTree | NoTask | SeveralTasks


def task(queries: Queries, id: str) -> TaskAnswer:  # noqa: A002 -- what it is
    """The tree of the task with this id, or of the only one whose id begins so, not counting tasks below it.

    Raises BadQuestion.
    """
    if not id:
        raise BadQuestion("id", "a task id is needed; `bursar tasks` lists them")
    links = statement("tasks", "task_links")
    sql = statement("tasks", "task_candidates", task_links=links)
    found = queries.rows(sql, {"id": id, "limit": _CANDIDATES_MAX + 1})
    if not found:
        return NoTask(id)
    root: str = found[0]["task"]
    # In a circle each is a part of another: then none stands for all.
    tops: list[str] = [row["task"] for row in found if not row["is_part"]] or [row["task"] for row in found]
    if root != id and len(tops) > 1:
        return SeveralTasks(id, tuple(tops[:_CANDIDATES_MAX]), more=len(tops) > _CANDIDATES_MAX)
    sql = statement("tasks", "subtree", task_links=links)
    linked = {row["task"]: row["parent"] for row in queries.rows(sql, {"id": root, "limit": _NODES_MAX + 1})}
    return _tree(_ask(queries, root, linked))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the ledger says of a task and everything below it, before it is a tree.

    ``linked`` has the parents that tasks name, ``parents`` those of the tree, ``rows`` what tasks spent themselves.
    """

    root: str
    linked: Mapping[str, str]
    parents: Mapping[str, str]
    circles: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]
    spans: Sequence[Span]
    span_count: int
    places: Sequence[Mapping[str, Any]]
    briefs: Sequence[Brief]
    steps: Sequence[Step]
    outcomes: Mapping[str, Outcome]


def _ask(queries: Queries, root: str, linked: Mapping[str, str]) -> _Facts:
    parents, circles = tree_of_tasks(root, linked)
    names = {"tasks": list(parents)}
    spans_of, placed = statement("trace", "spans_of"), statement("trace", "placed")
    columns = statement("tasks", "task_columns")
    figures = statement("tasks", "figures", task_columns=columns)
    spans = queries.rows(statement("trace", "spans", spans_of=spans_of), {**names, "limit": SPANS_MAX})
    places = statement("trace", "places", spans_of=spans_of, placed=placed, task_columns=columns)
    briefs = statement("trace", "briefs", spans_of=spans_of, placed=placed)
    steps = statement("tasks", "steps", step_columns=statement("feed", "step_columns"))
    return _Facts(
        root=root,
        linked=linked,
        parents=parents,
        circles=circles,
        rows={row["task"]: row for row in queries.rows(figures, names)},
        spans=[Span.of(row) for row in spans],
        span_count=spans[0]["span_count"] if spans else 0,
        places=queries.rows(places, names),
        briefs=[Brief.of(row) for row in queries.rows(briefs, {**names, "limit": ATTEMPTS_MAX})],
        steps=[Step.of(row) for row in queries.rows(steps, {**names, "limit": _STEPS_MAX})],
        outcomes={
            row["task"]: Outcome(row["outcome"], row["value_nanousd"], row["note"], row["at_us"])
            for row in queries.rows(statement("trace", "outcomes"), names)
        },
    )


def _tree(facts: _Facts) -> TaskTree:
    paid_by = {(brief.in_trace, brief.in_span): brief.task for brief in facts.briefs if brief.in_span}
    arranged = arrange(facts.spans, facts.parents, paid_by)
    drafts = draft_all(facts.root, facts.parents, facts.rows, arranged)
    for row in facts.places:
        drafts[place_of(row["of_task"], (row["in_trace"], row["in_span"]), arranged)].hold(row)
    places = {b.sequence: place_of(b.task, (b.in_trace, b.in_span), arranged) for b in facts.briefs}
    for step in facts.steps:
        if step.sequence in places:  # or it was booked while we asked, and is in the next answer
            drafts[places[step.sequence]].steps.append(step)
    # Everything comes after what it is in: backwards, what is inside is complete before it is added up.
    for draft in reversed(drafts.values()):
        draft.close()
    top = drafts[facts.root]
    stretches = _critical_path(drafts, places, facts)
    in_node: dict[Place, int] = {}
    in_attempt: dict[int, int] = {}
    by_kind: dict[str, int] = {"model": 0, "tool": 0, "own": 0}
    for stretch in stretches:
        if isinstance(stretch.ref, Brief):
            in_attempt[stretch.ref.sequence] = stretch.length_us
        else:
            in_node[stretch.ref.place] = in_node.get(stretch.ref.place, 0) + stretch.length_us
        by_kind[stretch.ref.kind if stretch.ref.kind in by_kind else "own"] += stretch.length_us
    longest = set(sorted(range(len(stretches)), key=lambda index: -stretches[index].length_us)[:_PATH_MAX])
    found = findings(facts.briefs, _free_tools(arranged, facts.briefs))
    return TaskTree(
        root=_node(top, facts, in_node, top.first_us or 0),
        task_count=len(facts.parents),
        span_count=len(arranged.spans),
        circles=facts.circles,
        notes=arranged.notes,
        path=tuple(_path_step(stretch) for index, stretch in enumerate(stretches) if index in longest),
        path_left_out=len(stretches) - len(longest),
        path_us=by_kind,
        critical=in_attempt,
        kept=Kept.of(facts.briefs),
        findings=tuple(found[:_FINDINGS_MAX]),
        findings_left_out=max(0, len(found) - _FINDINGS_MAX),
        steps_left_out=max(0, top.total.attempts - len(facts.steps)),
        spans_left_out=facts.span_count - len(facts.spans),
        attempts_left_out=max(0, top.total.attempts - len(facts.briefs)),
        tasks_left_out=len(facts.linked) > _NODES_MAX,
    )


def _critical_path(
    drafts: Mapping[Place, Draft], places: Mapping[int, Place], facts: _Facts
) -> list[Stretch[Brief | Draft]]:
    parts: dict[Place, Part[Brief | Draft]] = {}
    for place, draft in drafts.items():
        above = draft.listed_in
        begin = draft.first_us if draft.first_us is not None else drafts[facts.root].first_us or 0
        parts[place] = Part(draft, begin, begin if draft.ended_us is None else draft.ended_us)
        if above is not None:
            parts[above.place].parts.append(parts[place])
    for brief in facts.briefs:
        parts[places[brief.sequence]].parts.append(Part(brief, brief.started_us, brief.ended_us))
    return critical_path(parts[facts.root])


def _path_step(stretch: Stretch[Brief | Draft]) -> PathStep:
    ref = stretch.ref
    if isinstance(ref, Brief):
        name, span_id, attempt_id = ref.tool or ref.model or ref.operation, ref.in_span, ref.attempt_id
    else:
        name, span_id, attempt_id = ref.name, ref.span.span_id if ref.span else "", ""
    return PathStep(ref.kind, name, ref.task, span_id, attempt_id, stretch.started_us, stretch.ended_us)


def _free_tools(arranged: Arranged, briefs: Sequence[Brief]) -> list[Span]:
    """Tool calls that nobody charged: spans without an attempt. Of two that are the same call told twice, one in the
    other and of the same name, the inner one counts."""
    told: set[Key] = set()
    for brief in briefs:
        if brief.kind == "tool" and brief.in_span:
            key = (brief.in_trace, brief.in_span)
            told.update((key, arranged.inside.get(key, key)))
    tools = {key: span for key, span in arranged.spans.items() if span.kind == "tool"}
    for key, span in tools.items():
        above = tools.get(arranged.inside.get(key, key))
        if above is not None and above is not span and _tool(above) == _tool(span):
            told.add(above.key)
    return [span for key, span in tools.items() if not span.attempt_id and key not in told]


def _tool(span: Span) -> str:
    return span.tool or span.name


def _node(draft: Draft, facts: _Facts, critical: Mapping[Place, int], begin_us: int) -> Node:
    """The draft as it is answered; ``begin_us`` is where it stands when nothing of it is known to have a time."""
    row, span = draft.row, draft.span
    text = {name: row.get(name) or (getattr(span, name) if span else "") for name in ("agent", "user", "session")}
    first_us = begin_us if draft.first_us is None else draft.first_us
    last_us = first_us if draft.last_us is None else draft.last_us
    return Node(
        kind=draft.kind,
        name=draft.name,
        task=draft.task,
        parent=facts.linked.get(draft.task, "") if draft.is_task else "",
        **text,
        status=span.status if span else row.get("status") or "",
        error=span.error if span else "",
        trace_id=span.trace_id if span else "",
        span_id=span.span_id if span else "",
        size_bytes=span.size_bytes if span else None,
        first_us=first_us,
        last_us=last_us,
        ended_us=max(last_us, first_us if draft.ended_us is None else draft.ended_us),
        critical_us=critical.get(draft.place, 0),
        own=(Measures.of(row) if row else EMPTY) if draft.is_task else draft.held,
        total=draft.total,
        errors=row.get("errors") or 0 if draft.is_task else draft.errors,
        all_errors=draft.all_errors,
        outcome=facts.outcomes.get(draft.task) if draft.is_task else None,
        steps=_by_call(draft.steps),
        children=tuple(
            sorted((_node(child, facts, critical, first_us) for child in draft.children), key=lambda n: n.first_us)
        ),
    )


def _by_call(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Attempts in the order their calls began, those of one call together."""
    calls: dict[str, list[Step]] = {}
    for step in steps:
        calls.setdefault(step.call_id, []).append(step)
    return tuple(step for call in calls.values() for step in sorted(call, key=lambda step: step.number))


def _ms(microseconds: int) -> int:
    return microseconds // 1000


def _outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "outcome": outcome.outcome,
        "value_usd": cost_text(outcome.value_nanousd),
        "note": outcome.note,
        "at": time_text(outcome.at_us),
    }


def _node_json(node: Node, tree: TaskTree) -> dict[str, Any]:
    root = tree.root
    whole = root.total.cost_nanousd
    return {
        "kind": node.kind,
        "name": node.name,
        "task": node.task,
        "parent_task": node.parent,
        "agent": node.agent,
        "user": node.user,
        "session": node.session,
        "status": node.status,
        "error": node.error,
        "trace_id": node.trace_id,
        "span_id": node.span_id,
        "size_bytes": node.size_bytes,
        "first_at": time_text(node.first_us),
        "last_at": time_text(node.last_us),
        "offset_ms": _ms(node.first_us - root.first_us),
        "duration_ms": _ms(node.ended_us - node.first_us),
        "critical_ms": _ms(node.critical_us),
        "share": share(node.total.cost_nanousd, whole),
        "errors": node.errors,
        "all_errors": node.all_errors,
        "outcome": _outcome_json(node.outcome),
        "own": node.own.to_full_json(),
        "total": node.total.to_full_json(),
        "steps": [
            {
                **step.to_json(),
                "offset_ms": _ms(step.started_us - root.first_us),
                "critical_ms": _ms(tree.critical.get(step.sequence, 0)),
                "share": share(step.cost_nanousd, whole),
            }
            for step in node.steps
        ],
        "children": [_node_json(child, tree) for child in node.children],
    }
