"""The OpenAPI 3.1 description of the API, as data. A test holds it against what ``handle`` answers."""

from __future__ import annotations

from typing import Any, Final

from bursar.core.budget_fields import FIELDS as BUDGET_FIELDS
from bursar.views.feed import FEED_MAX
from bursar.views.overview import PERIODS

__all__ = ["LIMITS", "OPENAPI"]

LIMITS: Final = {
    "spend": (1_000, 10_000),
    "tasks": (200, 10_000),
    "feed": (50, FEED_MAX),
    "routes": (200, 10_000),
    "budgets": (20, 1_000),
    "budget": (1_000, 1_000),
    "task-budgets": (200, 1_000),
}
"""Rows of an answer (of budgets: values of ``each`` in one window): what is given unasked, and the most."""

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Final[Schema] = {"type": ["integer", "null"], "minimum": 0, "description": "null: not known"}
_NUMBER_OR_NULL: Final[Schema] = {"type": ["number", "null"]}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_FLAG: Final[Schema] = {"type": "boolean"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_COST: Final[Schema] = {
    "type": ["string", "null"],
    "pattern": r"^-?\d+(\.\d{1,9})?$",
    "description": "Exact decimal USD of the priced part; null when nothing is priced.",
}
_AVOIDED: Final[Schema] = {**_COST, "description": "What the cached answer would have cost. Part of no spend."}
_VALUE: Final[Schema] = {**_COST, "description": "Exact decimal USD that the outcome was worth; null: not said."}
_SHARE: Final[Schema] = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_AMOUNT: Final[Schema] = {
    "type": ["string", "integer"],
    "description": "Exact decimal USD as text, or a whole number of tokens or calls.",
}

_FIGURES: Final[dict[str, Schema]] = {
    "calls": _COUNT,
    "input_tokens": _COUNT_OR_NULL,
    "output_tokens": _COUNT_OR_NULL,
    "cache_read_tokens": _COUNT_OR_NULL,
    "cache_write_tokens": _COUNT_OR_NULL,
    "reasoning_tokens": _COUNT_OR_NULL,
    "unpriced_calls": {**_COUNT, "description": "Attempts whose cost is not known and not in cost_usd."},
    "cost_usd": _COST,
}
_TASK: Final[dict[str, Schema]] = {
    **dict.fromkeys(("task", "parent_task", "agent", "user", "session", "status"), _TEXT),
    "first_at": _TIME,
    "last_at": _TIME,
}
_STANDING: Final[dict[str, Schema]] = {
    "unit": {"enum": ["usd", "tokens", "calls"]},
    **dict.fromkeys(("limit", "spent", "held", "left"), _AMOUNT),
    "used_share": {**_NUMBER_OR_NULL, "description": "What is spent and held of the limit; null when that is nothing."},
    "unpriced_attempts": {**_COUNT, "description": "Attempts whose cost is not known; not in what is spent as zero."},
}
_STEP: Final[dict[str, Schema]] = {
    "sequence": _COUNT,
    **dict.fromkeys(("attempt_id", "call_id", "kind", "door", "operation", "provider", "model_asked", "model"), _TEXT),
    **dict.fromkeys(("agent", "user", "session", "task", "parent_task", "status", "error", "finish"), _TEXT),
    **{name: schema for name, schema in _FIGURES.items() if name.endswith("_tokens")},
    "number": {"type": "integer", "minimum": 1, "description": "Attempts of one call count from 1."},
    "started_at": _TIME,
    "cost_usd": _COST,
    "unpriced_reason": _TEXT_OR_NULL,
    "estimated": _FLAG,
    "latency_ms": _NUMBER_OR_NULL,
    "first_token_ms": _NUMBER_OR_NULL,
    "http_status": _COUNT_OR_NULL,
    "tools": {"type": "array", "items": _TEXT},
    "rung": {
        **_TEXT,
        "description": "Of its route: primary, fallback, a name, cached, stale; empty: no route was asked for.",
    },
    "cache": {**_TEXT, "description": "The tier that answered, miss, or empty: it was not asked."},
    "cause": {**_TEXT, "description": "Why it is not on the first rung."},
    "avoided_usd": _AVOIDED,
}


_EXPECTED: Final[Schema] = {**_COST, "description": "Exact decimal USD as it was expected; null: not known."}
_TAKEN: Final = ("taken", "probe", "panic", "hedge")
_ROUTE: Final[dict[str, Schema]] = {
    "calls": {**_COUNT, "description": "Calls that ended here: at their answer, else at their last attempt."},
    "attempts": {**_COUNT, "description": "Those that asked a provider."},
    "errors": _COUNT,
    "cancelled": {**_COUNT, "description": "Too late, slower than another one, or the client went away."},
    "unpriced": {**_COUNT, "description": "Attempts whose cost is not known and not in cost_usd."},
    "estimated": _COUNT,
    "p50_ms": {**_NUMBER_OR_NULL, "description": "Of answers."},
    "p95_ms": _NUMBER_OR_NULL,
    "cost_usd": _COST,
    "avoided_usd": _AVOIDED,
    "causes": {
        "type": "object",
        "additionalProperties": _COUNT,
        "description": "Why calls that ended here had left the first rung: a failure, open (its breaker), barred.",
    },
}


def _object(fields: dict[str, Schema], **extra: Any) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), **extra}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _table(row: Schema, **extra: Any) -> Schema:
    return _object({"rows": _list(row), "total": _ref("FullFigures"), "more_rows": _COUNT}, **extra)


_GROUPED: Final = _object(
    _FIGURES, additionalProperties={"type": "string", "description": "The columns it is grouped by."}
)
_FULL: Final[dict[str, Schema]] = {**_FIGURES, "estimated_calls": _COUNT}

_BUDGET: Final[dict[str, Schema]] = {
    "name": _TEXT,
    "source": {"enum": ["file", "set"], "description": "file: of bursar.yaml, and changed there."},
    "changed_at": _TIME_OR_NULL,
    "unit": _STANDING["unit"],
    "limits": _list(_object({"window": _TEXT, "limit": _AMOUNT, "now": {**_AMOUNT, "description": "With a raise."}})),
    "each": {**_TEXT, "description": "The column of which every value has a balance of its own; empty for none."},
    "match": {"type": "object", "additionalProperties": _list(_TEXT)},
    "enforced": _FLAG,
    "raise": {
        **_object({"by": _AMOUNT, "until": _TIME, "in_force": _FLAG}),
        "type": ["object", "null"],
    },
    "spec": {"type": "object", "description": "As it was written; what PUT takes."},
    "standings": _list(
        _object(
            {
                "budget": _TEXT,
                "subject": {**_TEXT, "description": "The value of `each`; empty without it."},
                "window": _TEXT,
                **_STANDING,
                "starts_at": _TIME_OR_NULL,
                "resets_at": {**_TIME_OR_NULL, "description": "null: rolling, or never."},
            }
        )
    ),
    "more_standings": _COUNT,
}

_SCHEMAS: Final[dict[str, Schema]] = {
    "Figures": _object(_FIGURES),
    "FullFigures": _object(_FULL),
    "Spend": _object({"rows": _list(_GROUPED), "total": _ref("Figures"), "more_rows": _COUNT}),
    "TaskRow": _object(
        {
            **_TASK,
            **_FIGURES,
            **dict.fromkeys(("errors", "sub_tasks", "all_calls", "all_errors", "all_unpriced_calls"), _COUNT),
            "all_cost_usd": _COST,
            "outcome": {**_TEXT, "description": "The latest word on what became of it; empty when there is none."},
            "value_usd": _VALUE,
        }
    ),
    "Tasks": _object(
        {
            "rows": _list(_ref("TaskRow")),
            "total": _ref("Figures"),
            "without_task": _ref("Figures"),
            "more_rows": _COUNT,
        }
    ),
    "Attempt": _object(_STEP),
    "Step": _object({**_STEP, "offset_ms": {"type": "integer"}, "critical_ms": _COUNT, "share": _SHARE}),
    "Outcome": {
        **_object({"outcome": _TEXT, "value_usd": _VALUE, "note": _TEXT, "at": _TIME}),
        "type": ["object", "null"],
    },
    "Node": _object(
        {
            "kind": {"enum": ["task", "agent", "step", "tool", "model"]},
            **dict.fromkeys(("name", "error", "trace_id", "span_id"), _TEXT),
            **_TASK,
            "size_bytes": _COUNT_OR_NULL,
            "offset_ms": {"type": "integer"},
            "duration_ms": _COUNT,
            "critical_ms": {**_COUNT, "description": "How long the critical path was in this itself."},
            "share": _SHARE,
            "errors": _COUNT,
            "all_errors": _COUNT,
            "outcome": _ref("Outcome"),
            "own": _ref("FullFigures"),
            "total": _ref("FullFigures"),
            "steps": _list(_ref("Step")),
            "children": _list(_ref("Node")),
        }
    ),
    "CriticalPath": _object(
        {
            **dict.fromkeys(("duration_ms", "model_ms", "tool_ms", "own_ms"), _COUNT),
            "steps": _list(
                _object(
                    {
                        **dict.fromkeys(("kind", "name", "task", "span_id", "attempt_id"), _TEXT),
                        "offset_ms": _COUNT,
                        "duration_ms": _COUNT,
                        "share": _SHARE,
                    }
                )
            ),
            "steps_left_out": _COUNT,
        }
    ),
    "Finding": _object(
        {
            "kind": {"enum": ["context_growth", "cache_miss", "repeated_tool", "failed_billed", "retry"]},
            **dict.fromkeys(("task", "agent", "model", "tool"), _TEXT),
            "amount_usd": {**_COST, "description": "A part of what was spent; null is not known. Findings overlap."},
            "estimated": _FLAG,
            "unknown_steps": {**_COUNT, "description": "Steps whose part is not known and not in the amount."},
            "text": _TEXT,
            "step_count": _COUNT,
            "steps": _list(
                _object(
                    {
                        **dict.fromkeys(("attempt_id", "span_id"), _TEXT),
                        "offset_ms": {"type": "integer"},
                        "input_tokens": _COUNT_OR_NULL,
                        "tokens": {**_COUNT_OR_NULL, "description": "Those of its input that the finding is about."},
                        "amount_usd": _COST,
                    }
                )
            ),
        }
    ),
    "TaskTree": {
        "allOf": [
            _ref("Node"),
            _object(
                {
                    **dict.fromkeys(("tasks", "spans"), _COUNT),
                    **dict.fromkeys(("circles", "notes"), _list(_TEXT)),
                    "critical_path": _ref("CriticalPath"),
                    "kept": _object({"answers": _COUNT, "avoided_usd": _AVOIDED, "unknown_cost": _COUNT}),
                    "findings": _list(_ref("Finding")),
                    **dict.fromkeys(("findings_left_out", "steps_left_out", "spans_left_out"), _COUNT),
                    "attempts_not_looked_at": {
                        **_COUNT,
                        "description": "Attempts past those that findings and critical path are about.",
                    },
                    "tasks_left_out": _FLAG,
                }
            ),
        ]
    },
    "CallAttempt": _object(
        {
            **_STEP,
            "decision": {"type": "object", "description": "As it was stored before the attempt left."},
        }
    ),
    "Candidate": _object(
        {
            **dict.fromkeys(("rung", "provider", "model"), _TEXT),
            "verdict": {
                "enum": [*_TAKEN, "failed", "cancelled", "passed", "not needed", "not tried", ""],
                "description": "probe, panic and hedge were taken too; empty: none was stored.",
            },
            "why": _TEXT,
            "breaker": {"enum": ["closed", "probe", "open", ""]},
            "expected_usd": _EXPECTED,
            "charged_usd": {**_COST, "description": "All of its attempts; null: none was made, or none is priced."},
            "estimated": _FLAG,
            "attempts": _list(_TEXT),
            "status": _TEXT,
            "http_status": _COUNT_OR_NULL,
        }
    ),
    "CallBudget": {
        **_object(
            {
                **dict.fromkeys(("name", "subject", "window", "unit"), _TEXT),
                "used_share": {**_NUMBER_OR_NULL, "description": "Of its limit, before this call's hold."},
                "left": {**_AMOUNT, "type": ["string", "integer", "null"]},
                "held_usd": _EXPECTED,
                "output_cap": _COUNT_OR_NULL,
                "changed": _list(_TEXT),
            }
        ),
        "type": ["object", "null"],
        "description": "What the tightest budget made of the call; null: nothing.",
    },
    "CallPromptCache": {
        **_object(
            {
                **dict.fromkeys(("ttl", "why", "parted_at"), _TEXT),
                **dict.fromkeys(("chance_permille", "read_tokens"), _COUNT_OR_NULL),
                "marks": _list(_TEXT),
                "keyed": _FLAG,
                "expected_usd": _EXPECTED,
            }
        ),
        "type": ["object", "null"],
        "description": "What was done for the provider's own cache; null: its route does not ask for it.",
    },
    "Call": _object(
        {
            **dict.fromkeys(("call_id", "asked_attempt", "kind", "door", "operation", "model_asked", "route"), _TEXT),
            **dict.fromkeys(
                ("org", "team", "project", "user", "agent", "session", "task", "parent_task", "key"), _TEXT
            ),
            **dict.fromkeys(("trace_id", "provider", "model", "status", "error", "rung", "cause", "why"), _TEXT),
            "asked": {**_TEXT, "description": "The operation the client asked for; empty: it is not known."},
            "started_at": _TIME,
            "stream": _FLAG,
            "answered": _FLAG,
            "answered_by": {**_TEXT_OR_NULL, "description": "The attempt's id."},
            "http_status": _COUNT_OR_NULL,
            "cost_usd": {**_COST, "description": "All attempts."},
            **dict.fromkeys(("unpriced_attempts", "estimated_attempts", "attempts_left_out"), _COUNT),
            "elapsed_ms": _NUMBER_OR_NULL,
            "candidates": _list(_ref("Candidate")),
            "cache": _object(
                {
                    "outcome": {**_TEXT, "description": "The tier that answered, miss, or empty: it was not asked."},
                    **dict.fromkeys(("found", "why", "similar"), _TEXT),
                    "similarity_permille": _COUNT_OR_NULL,
                    "age_s": _COUNT_OR_NULL,
                    "avoided_usd": _AVOIDED,
                }
            ),
            "budget": _ref("CallBudget"),
            "prompt_cache": _ref("CallPromptCache"),
            "attempts": _list(_ref("CallAttempt")),
        }
    ),
    "RouteRung": _object({**dict.fromkeys(("rung", "provider", "model"), _TEXT), "share": _SHARE, **_ROUTE}),
    "Route": _object(
        {
            "route": _TEXT,
            "asking_calls": {**_COUNT, "description": "Calls that asked a provider at all."},
            "amplification": {**_NUMBER_OR_NULL, "description": "Attempts for each of these."},
            **_ROUTE,
            "rungs": _list(_ref("RouteRung")),
        }
    ),
    "Routes": _object({"routes": _list(_ref("Route")), **dict.fromkeys(("more_rungs", "rolled_up_attempts"), _COUNT)}),
    "Feed": _object({"rows": _list(_ref("Attempt")), "last_sequence": {"type": "integer"}}),
    "Overview": _object(
        {
            "period": {"enum": list(PERIODS)},
            "tz": _TEXT,
            "first_at": _TIME_OR_NULL,
            "last_at": _TIME_OR_NULL,
            "figures": _object(dict.fromkeys(("today", "7d", "30d"), _ref("FullFigures"))),
            "days": {
                **_list(_object({"day": {"type": "string", "format": "date"}, **_FULL})),
                "description": "The last 30 days; when these have no call, the 30 days up to the last call.",
            },
            "tables": _object(
                {
                    "model": _table(_object({"model": _TEXT, **_FULL})),
                    "agent": _table(_object({"agent": _TEXT, **_FULL})),
                    "task": _table(
                        _object({"task": _TEXT, "sub_tasks": _COUNT, **_FULL}),
                        description="Tasks that are no part of another, with everything below them.",
                    ),
                }
            ),
            "unpriced_reasons": _list(_object({"reason": _TEXT, "calls": _COUNT})),
        }
    ),
    "Budget": _object(_BUDGET),
    "Budgets": _object({"rows": _list(_ref("Budget"))}),
    "BudgetSpec": {
        "type": "object",
        "description": "As under budgets in bursar.yaml. All but `task` need a limit.",
        "properties": {
            "limit": {"description": 'An amount such as "50", "2M tokens" or "100 calls", or one for each window.'},
            **{name: {} for name in BUDGET_FIELDS if name != "limit"},
        },
        "additionalProperties": False,
    },
    "Removed": _object({"removed": _TEXT}),
    "TaskBudget": _object({"task": _TEXT, "parent_task": _TEXT, **_STANDING, "reserve": _AMOUNT}),
    "TaskBudgets": _object({"rows": _list(_ref("TaskBudget")), "more_rows": _COUNT}),
    "TaskLimit": {
        "type": "object",
        "properties": {
            "limit": {"type": ["string", "number", "null"], "description": "USD; null takes the limit away."},
            "reserve": {"type": ["string", "number", "null"], "description": "USD kept for the task's last call."},
        },
        "required": ["limit"],
        "additionalProperties": False,
    },
    "TaskLimited": {
        "anyOf": [_ref("TaskBudget"), _object({"task": _TEXT, "limit": {"type": "null"}})],
    },
    "Approval": _object(
        {
            "id": _TEXT,
            "budget": _TEXT,
            "who": {"type": "object", "additionalProperties": _TEXT},
            "state": {"enum": ["pending", "granted", "declined"]},
            "asked_at": _TIME,
            "decided_at": _TIME_OR_NULL,
            "ends_at": _TIME_OR_NULL,
        }
    ),
    "Approvals": _object({"rows": _list(_ref("Approval"))}),
    "Decision": {
        "type": "object",
        "properties": {"decision": {"enum": ["granted", "declined"]}},
        "required": ["decision"],
        "additionalProperties": False,
    },
    "CacheUse": _object(
        {"entries": _COUNT, "bytes": _COUNT, "limit_bytes": {"type": ["integer", "null"]}, "evicted": _COUNT}
    ),
    "Forgotten": _object({"removed": _COUNT}),
    "WrongAnswer": _object(
        {"call_id": {**_TEXT, "description": "As in x-bursar-call-id."}}, additionalProperties=False
    ),
    "Error": _object({"error": _object({"message": _TEXT, "field": _TEXT_OR_NULL})}),
}


def _parameter(name: str, description: str, schema: Schema = _TEXT, *, place: str = "query") -> Schema:
    return {"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}


def _limit(view: str) -> Schema:
    default, most = LIMITS[view]
    return _parameter("limit", "Rows at most.", {"type": "integer", "minimum": 1, "maximum": most, "default": default})


_SPAN: Final = [
    _parameter("since", "From then on: an ISO date or time, today, yesterday, month, 7d, 24h."),
    _parameter("until", "Before then; the same forms."),
    _parameter("where", "Only these: COLUMN=VALUE. Repeat it for several columns."),
]
_TZ: Final = _parameter("tz", "Time zone of days and times (IANA name).", {**_TEXT, "default": "UTC"})


_TOLD: Final = {
    "400": "The request names something that cannot be asked, or set.",
    "403": "The change comes from a page of another site.",
    "404": "There is none of that name.",
    "409": "Several tasks, or calls, begin with this id; or the budget is in bursar.yaml and is changed there.",
    "413": "The body is larger than 64,000 bytes.",
    "415": "The body is not application/json.",
}
_CHANGE_PROBLEMS: Final = ("403", "404", "409", "413", "415")


def _content(name: str) -> Schema:
    return {"content": {"application/json": {"schema": _ref(name)}}}


def _operation(
    summary: str,
    answer: str,
    *parameters: Schema,
    body: str = "",
    done: tuple[str, ...] = ("200",),
    problems: tuple[str, ...] = (),
) -> Schema:
    responses = {code: {"description": _TOLD[code], **_content("Error")} for code in ("400", *problems)}
    responses.update({code: {"description": summary, **_content(answer)} for code in done})
    found: Schema = {"summary": summary, "parameters": list(parameters), "responses": responses}
    return found | ({"requestBody": {"required": True, **_content(body)}} if body else {})


def _get(summary: str, answer: str, *parameters: Schema, problems: tuple[str, ...] = ()) -> Schema:
    return {"get": _operation(summary, answer, *parameters, problems=problems)}


def _change(method: str, summary: str, answer: str, place: Schema, body: str = "") -> Schema:
    done = ("200", "201") if method == "put" else ("200",)
    return {method: _operation(summary, answer, place, body=body, done=done, problems=_CHANGE_PROBLEMS)}


_BUDGET_NAME: Final = _parameter("name", "The budget's name.", place="path")
_TASK_NAME: Final = _parameter("task", "The task's id.", place="path")
_APPROVAL_ID: Final = _parameter("id", "The approval's id, as in the refusal.", place="path")
_BUDGET_PATHS: Final[dict[str, Schema]] = {
    "/api/v1/budgets": _get("Every budget in force, and how it stands", "Budgets", _limit("budgets")),
    "/api/v1/budgets/{name}": {
        **_get("One budget, and how it stands", "Budget", _BUDGET_NAME, _limit("budget"), problems=("404",)),
        **_change("put", "Set or replace a budget", "Budget", _BUDGET_NAME, "BudgetSpec"),
        **_change("delete", "Remove a budget; what was spent stays in the books", "Removed", _BUDGET_NAME),
    },
    "/api/v1/task-budgets": _get(
        "Tasks with a limit of their own, the latest opened first", "TaskBudgets", _limit("task-budgets")
    ),
    "/api/v1/task-budgets/{task}": {
        **_get("A task's own limit, and how it stands", "TaskBudget", _TASK_NAME, problems=("404",)),
        **_change("put", "Set, raise, lower or take away a task's own limit", "TaskLimited", _TASK_NAME, "TaskLimit"),
    },
    "/api/v1/approvals": _get(
        "What waits for a yes, the latest first",
        "Approvals",
        _parameter("state", "What to list.", {"enum": ["pending", "all"], "default": "pending"}),
    ),
    "/api/v1/approvals/{id}": _change("post", "Say yes or no", "Approval", _APPROVAL_ID, "Decision"),
}
_CACHE_PATHS: Final[dict[str, Schema]] = {
    "/api/v1/cache": {
        **_get("What the running server keeps of answers", "CacheUse", problems=("404",)),
        "delete": _operation(
            "Forget what all of the fields describe",
            "Forgotten",
            *(_parameter(name, f"What has this {name}.") for name in ("key", "tag", "route", "tenant")),
            _parameter("all", "All of it.", {"enum": ["true"]}),
            problems=_CHANGE_PROBLEMS,
        ),
    },
    "/api/v1/cache/wrong": {
        "post": _operation(
            "Say that the kept answer which a call was given is wrong: it is forgotten, and counts against its kind",
            "Forgotten",
            body="WrongAnswer",
            problems=_CHANGE_PROBLEMS,
        )
    },
}


OPENAPI: Final[Schema] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Bursar",
        "version": "1",
        "description": "What agents spent. Amounts are exact decimal texts in USD; null is not known, never zero.",
    },
    "paths": {
        "/api/v1/spend": _get(
            "Spend by columns, dearest first",
            "Spend",
            _parameter(
                "by", "Columns separated by commas: model, team, day, label:NAME, ...", {**_TEXT, "default": "model"}
            ),
            *_SPAN,
            _TZ,
            _limit("spend"),
        ),
        "/api/v1/tasks": _get("Tasks, dearest first", "Tasks", *_SPAN, _TZ, _limit("tasks")),
        "/api/v1/tasks/{id}": _get(
            "The whole life of a task: its tree, critical path, findings and outcome",
            "TaskTree",
            _parameter("id", "The task's id, or its beginning.", place="path"),
            problems=("404", "409"),
        ),
        "/api/v1/calls/{id}": _get(
            "One call: why it took the rung it took, and what that cost",
            "Call",
            _parameter("id", "The call's id, its beginning, an attempt's id, or last.", place="path"),
            problems=("404", "409"),
        ),
        "/api/v1/routes": _get(
            "Routes: which rungs answer, why others are left, what that costs",
            "Routes",
            _parameter("route", "Only this one."),
            *_SPAN,
            _TZ,
            _limit("routes"),
        ),
        "/api/v1/feed": _get(
            "The newest attempts, newest first",
            "Feed",
            _parameter("after", "Only what was booked past this sequence.", _COUNT),
            _limit("feed"),
        ),
        "/api/v1/overview": _get(
            "The first look: figures, days and tables",
            "Overview",
            _TZ,
            _parameter("period", "What the tables show.", {"enum": list(PERIODS), "default": "30d"}),
        ),
        **_BUDGET_PATHS,
        **_CACHE_PATHS,
    },
    "components": {"schemas": _SCHEMAS},
}
