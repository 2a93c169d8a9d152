-- name: spans_of
-- Common tables. ``mine``: the tasks asked for. ``latest``: of every span of their traces the row that counts.
mine AS MATERIALIZED (
    SELECT unnest(CAST($tasks AS VARCHAR[])) AS task
),
known AS MATERIALIZED (
    SELECT trace_id FROM span WHERE task IN (SELECT task FROM mine)
    UNION
    SELECT trace_id FROM attempt WHERE trace_id <> '' AND task IN (SELECT task FROM mine)
    UNION
    SELECT task FROM mine
),
latest AS MATERIALIZED (
    SELECT *
    FROM span
    WHERE trace_id IN (SELECT trace_id FROM known)
    QUALIFY row_number() OVER (PARTITION BY trace_id, span_id ORDER BY sequence DESC) = 1
)

-- name: spans
-- The spans of some tasks, and those of their traces that name no task, in the order they started.
WITH {spans_of}
SELECT one.trace_id, one.span_id, one.parent_id, one.name, one.kind, one.door, epoch_us(one.started_at) AS started_us,
       epoch_us(one.ended_at) AS ended_us, one.status, one.error, one.agent, one."user" AS user, one.session, one.task,
       one.tool, one.size_bytes, one.attempt_id, one.parent_id = '' OR above.span_id IS NOT NULL AS parent_known,
       count(*) OVER () AS span_count
FROM latest AS one LEFT JOIN latest AS above ON above.trace_id = one.trace_id AND above.span_id = one.parent_id
WHERE one.task = '' OR one.task IN (SELECT task FROM mine)
ORDER BY one.started_at, one.trace_id, one.span_id
LIMIT $limit

-- name: placed
-- Common tables. ``placed``: every attempt of the tasks once, with the one span it is in: the span that stands for it
-- (of several the SDK's, which was nearest: "sdk" is also the greatest name), or else the span it was made under.
paid AS MATERIALIZED (
    SELECT attempt_id, trace_id, span_id, tool
    FROM latest
    WHERE attempt_id <> ''
    QUALIFY row_number() OVER (PARTITION BY attempt_id ORDER BY door DESC, started_at, span_id) = 1
),
placed AS (
    SELECT attempt.*, coalesce(paid.trace_id, latest.trace_id, '') AS in_trace,
           coalesce(paid.span_id, latest.span_id, '') AS in_span,
           CASE WHEN attempt.kind = 'tool'
                THEN coalesce(nullif(paid.tool, ''), nullif(attempt.model, ''), nullif(attempt.model_asked, ''), operation)
                ELSE '' END AS tool
    FROM attempt
    LEFT JOIN paid ON paid.attempt_id = attempt.attempt_id
    LEFT JOIN latest ON attempt.trace_id <> '' AND latest.trace_id = attempt.trace_id AND latest.span_id = attempt.span_id
    WHERE attempt.task IN (SELECT task FROM mine)
)

-- name: places
-- The figures of the attempts in each span of each task; in_span '' is what is in none.
WITH {spans_of}, {placed}
SELECT task AS of_task, in_trace, in_span, {task_columns},
       max(epoch_us(started_at) + CAST(coalesce(latency_ms, 0) * 1000 AS BIGINT)) AS ended_us
FROM placed
GROUP BY of_task, in_trace, in_span

-- name: briefs
-- The attempts of some tasks with what findings and the critical path look at, in the order they started. What an attempt of
-- several was for is in its decision; without one it is what was asked for.
WITH {spans_of}, {placed},
told AS (
    SELECT *, CASE WHEN count(*) OVER (PARTITION BY call_id) > 1 AND json_valid(decision)
                   THEN from_json(decision, '{{"why": "VARCHAR", "candidates": [{{"provider": "VARCHAR", "model": "VARCHAR",
                                               "verdict": "VARCHAR"}}]}}') END AS said
    FROM placed
),
aimed AS (
    SELECT *, coalesce(list_position([each.verdict IN ('taken', 'probe', 'panic', 'hedge') FOR each IN said.candidates], TRUE),
                       CASE WHEN len(said.candidates) = 1 THEN 1 END) AS place
    FROM told
)
SELECT sequence, attempt_id, call_id, number, epoch_us(started_at) AS started_us, latency_ms, kind, provider, model,
       operation, agent, task, in_trace, in_span, tool, coalesce(labels['args'], '') AS arguments, tools, status,
       input_tokens, cache_read_tokens, cache_write_tokens, cost_nanousd, cost_input_nanousd, cost_cache_read_nanousd,
       cost_cache_write_nanousd,
       [line.rate_usd for line in lines if line.unit = 'cache_read_tokens'][1] AS cache_read_rate, cache,
       avoided_nanousd, coalesce(said.candidates[place].provider, provider) AS target_provider,
       coalesce(said.candidates[place].model, nullif(model_asked, ''), model) AS target_model,
       coalesce(said.why = 'hedge' OR said.candidates[place].verdict = 'hedge', FALSE) AS is_hedge
FROM aimed
ORDER BY started_at, sequence
LIMIT $limit

-- name: outcomes
-- The latest word on what became of each of some tasks.
SELECT task, outcome, value_nanousd, note, epoch_us(said_at) AS at_us
FROM outcome
WHERE task IN (SELECT unnest(CAST($tasks AS VARCHAR[])))
QUALIFY row_number() OVER (PARTITION BY task ORDER BY sequence DESC) = 1
