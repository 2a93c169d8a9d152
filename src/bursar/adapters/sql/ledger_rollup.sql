-- Sums the attempts that started from $begin until $until (microseconds) per day and scope.
INSERT INTO rollup
SELECT date_trunc('day', started_at), kind, door, provider, model, org, team, project, "user", agent, key, status,
       count(*) FILTER (number = 1), count(*), count(*) FILTER (cost_nanousd IS NULL), count(*) FILTER (estimated),
       coalesce(sum(input_tokens), 0), coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
       coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0),
       coalesce(sum(cost_nanousd), 0), coalesce(sum(avoided_nanousd), 0), rung, cache
FROM attempt
WHERE started_at >= make_timestamp($begin) AND started_at < make_timestamp($until)
GROUP BY ALL
