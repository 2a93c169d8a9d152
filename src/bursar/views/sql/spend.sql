-- name: measures
-- The figures of a group, in the columns of the view spend. Sums stay 64 bits wide; SQL would widen them.
CAST(sum(calls) AS BIGINT) AS calls,
CAST(sum(attempts) AS BIGINT) AS attempts,
CAST(sum(input_tokens) AS BIGINT) AS input_tokens,
CAST(sum(output_tokens) AS BIGINT) AS output_tokens,
CAST(sum(cache_read_tokens) AS BIGINT) AS cache_read_tokens,
CAST(sum(cache_write_tokens) AS BIGINT) AS cache_write_tokens,
CAST(sum(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
CAST(sum(unpriced_calls) AS BIGINT) AS unpriced_calls,
CAST(sum(estimated_calls) AS BIGINT) AS estimated_calls,
CAST(sum(cost_nanousd) AS BIGINT) AS cost_nanousd

-- name: spend
-- Matching spend by the given keys, and last the total over every group, also of those past the limit.
-- The first step reads many rows, so its keys are cheap: a time is a quarter of an hour, which every zone's days,
-- hours and months are made of. The second turns few rows into what people read.
WITH fine AS (
    SELECT {fine_keys} {measures} FROM spend WHERE {condition} GROUP BY ALL
),
grouped AS MATERIALIZED (
    SELECT {keys} {measures} FROM fine GROUP BY ALL
)
SELECT * FROM (
    (SELECT FALSE AS is_total, CAST(NULL AS BIGINT) AS group_count, * FROM grouped ORDER BY {ordering} LIMIT $limit)
    UNION ALL BY NAME
    SELECT TRUE AS is_total, count(*) AS group_count, {measures} FROM grouped
)
ORDER BY is_total, {ordering}

-- name: unpriced_reasons
-- Why matching attempts have no price, most frequent first.
SELECT coalesce(unpriced_reason, '') AS reason, count(*) AS calls
FROM attempt
WHERE cost_nanousd IS NULL AND {condition}
GROUP BY ALL
ORDER BY calls DESC, reason
LIMIT $limit

-- name: first_and_last
-- When the ledger's first and last attempts started, in microseconds since 1970 UTC; NULL when it is empty.
SELECT epoch_us(min(started_at)) AS first_us, epoch_us(max(started_at)) AS last_us FROM spend
