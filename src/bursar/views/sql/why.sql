-- name: find_call
-- The calls that an id may mean: that of a call, of an attempt, or the beginning of a call's. Exact ones come first.
SELECT call_id, bool_or(call_id = $id) AS is_call, bool_or(attempt_id = $id) AS is_attempt
FROM attempt
WHERE call_id = $id OR attempt_id = $id OR ($beginning AND starts_with(call_id, $id))
GROUP BY call_id
ORDER BY is_call DESC, is_attempt DESC, call_id
LIMIT $limit

-- name: last_call
-- The call of the attempt that was booked last.
SELECT call_id FROM attempt ORDER BY sequence DESC LIMIT 1

-- name: attempts
-- The attempts of one call in the order they left, each with the sums over all of them.
SELECT {step_columns}, org, team, project, key, stream, trace_id, decision,
       count(*) OVER () AS attempt_count,
       CAST(sum(cost_nanousd) OVER () AS BIGINT) AS sum_nanousd,
       count(*) FILTER (cost_nanousd IS NULL) OVER () AS unpriced_count,
       count(*) FILTER (estimated) OVER () AS estimated_count,
       epoch_us(min(started_at) OVER ()) AS first_us,
       max(epoch_us(started_at) + CAST(latency_ms * 1000 AS BIGINT)) OVER () AS ended_us
FROM attempt
WHERE call_id = $call_id
ORDER BY number, started_at, sequence
LIMIT $limit
