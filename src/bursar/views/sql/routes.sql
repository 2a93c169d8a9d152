-- name: routes
-- Routes, and their rungs with most calls. What an attempt's rung is for (its target) is in its decision; an answer from the
-- cache has none. A call ended at its answer, or else at its last attempt. The row with ``is_route`` is over all of a route.
WITH known AS MATERIALIZED (
    SELECT sequence, call_id, number, rung, cause, status, cost_nanousd, avoided_nanousd, estimated, latency_ms, provider, model,
           cache NOT IN ('', 'miss') AS kept,
           from_json(decision, '{{"route": "VARCHAR", "candidates": [{{"provider": "VARCHAR", "model": "VARCHAR",
                                  "verdict": "VARCHAR"}}]}}') AS said
    FROM attempt
    WHERE rung <> '' AND {condition}
),
routed AS (
    SELECT call_id, said.route AS route, rung, cause, status, cost_nanousd, avoided_nanousd, estimated, latency_ms, kept,
           coalesce(list_position([each.verdict IN ('taken', 'probe', 'panic', 'hedge') FOR each IN said.candidates], TRUE),
                    CASE WHEN len(said.candidates) = 1 THEN 1 END) AS place,
           CASE WHEN kept THEN '' ELSE coalesce(said.candidates[place].provider, provider) END AS target_provider,
           CASE WHEN kept THEN '' ELSE coalesce(said.candidates[place].model, model) END AS target_model,
           row_number() OVER (PARTITION BY call_id ORDER BY status = 'ok' DESC, number DESC, sequence DESC) = 1 AS is_end
    FROM known
    WHERE said.route <> '' AND ($route = '' OR said.route = $route)
),
grouped AS (
    SELECT route, rung, target_provider, target_model, grouping(rung) = 1 AS is_route, min(place) AS place,
           count(*) FILTER (is_end) AS calls,
           count(*) FILTER (NOT kept) AS attempts,
           count(DISTINCT call_id) FILTER (NOT kept) AS asking_calls,
           count(*) FILTER (status NOT IN ('ok', 'cancelled', 'ended')) AS errors,
           count(*) FILTER (status = 'cancelled') AS cancelled,
           count(*) FILTER (cost_nanousd IS NULL) AS unpriced,
           count(*) FILTER (estimated) AS estimated,
           CAST(sum(cost_nanousd) AS BIGINT) AS cost_nanousd,
           CAST(sum(avoided_nanousd) AS BIGINT) AS avoided_nanousd,
           quantile_cont(latency_ms, 0.5) FILTER (status = 'ok') AS p50_ms,
           quantile_cont(latency_ms, 0.95) FILTER (status = 'ok') AS p95_ms,
           histogram(cause) FILTER (is_end AND cause <> '') AS causes
    FROM routed
    GROUP BY GROUPING SETS ((route), (route, rung, target_provider, target_model))
)
SELECT * EXCLUDE (causes), coalesce(map_keys(causes), []) AS causes, coalesce(map_values(causes), []) AS cause_calls,
       count(*) FILTER (NOT is_route) OVER () AS rung_count
FROM grouped
ORDER BY is_route DESC, calls DESC, attempts DESC, route, rung, target_provider, target_model
LIMIT $limit

-- name: rolled_up
-- Attempts on routes that are only kept as sums: what all spend has more than the attempts.
SELECT CAST(coalesce((SELECT sum(attempts) FROM spend WHERE rung <> '' AND kind = 'model' AND {condition}), 0)
            - (SELECT count(*) FROM attempt WHERE rung <> '' AND kind = 'model' AND {condition}) AS BIGINT) AS attempts

-- name: targets
-- What the rungs of routes ask, also those that were only passed over: what the decisions of their attempts look at.
WITH known AS (
    SELECT from_json(decision, '{{"route": "VARCHAR", "candidates": [{{"provider": "VARCHAR", "model": "VARCHAR"}}]}}') AS said
    FROM attempt
    WHERE rung <> '' AND {condition}
)
SELECT DISTINCT each.candidate.provider AS provider, each.candidate.model AS model
FROM (
    SELECT unnest(said.candidates) AS candidate
    FROM known
    WHERE said.route <> '' AND ($route = '' OR said.route = $route)
) AS each
WHERE provider <> ''
ORDER BY provider, model
LIMIT $limit

-- name: names
-- The routes that attempts name.
SELECT DISTINCT json_extract_string(decision, '$.route') AS route
FROM attempt
WHERE rung <> '' AND json_extract_string(decision, '$.route') <> ''
ORDER BY route
LIMIT $limit
