-- name: tiers
-- What the cache answered, by kind of call and tier. An answer of it is an attempt, but not always its call's first.
SELECT kind, cache AS tier,
       CAST(sum(calls) AS BIGINT) AS calls,
       CAST(sum(attempts) AS BIGINT) AS attempts,
       CAST(sum(avoided_nanousd) AS BIGINT) AS avoided_nanousd,
       CAST(sum(CASE WHEN avoided_nanousd IS NULL THEN attempts ELSE 0 END) AS BIGINT) AS unknown
FROM spend
WHERE cache <> '' AND {condition}
GROUP BY ALL
ORDER BY kind, attempts DESC, tier

-- name: upkeep
-- What was paid for the cache itself. Rollups have no labels: what is older than the retention is not in it.
SELECT operation = 'embeddings' AS is_embedding, count(*) AS calls,
       CAST(coalesce(sum(cost_nanousd), 0) AS BIGINT) AS cost_nanousd,
       count(*) FILTER (cost_nanousd IS NULL) AS unpriced
FROM attempt
WHERE map_extract_value(labels, 'bursar_for') = 'cache' AND {condition}
GROUP BY ALL
