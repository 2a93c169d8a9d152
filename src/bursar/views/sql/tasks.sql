-- name: task_columns
-- What is known of one task from its own attempts. Where attempts disagree on the parent, the greatest name counts,
-- in every query alike.
max(parent_task) AS parent,
coalesce(arg_min(agent, started_at) FILTER (agent <> ''), '') AS agent,
coalesce(arg_min("user", started_at) FILTER ("user" <> ''), '') AS user,
coalesce(arg_min(session, started_at) FILTER (session <> ''), '') AS session,
epoch_us(min(started_at)) AS first_us,
epoch_us(max(started_at)) AS last_us,
arg_max(status, started_at) AS status,
count(*) FILTER (status NOT IN ('ok', 'cancelled', 'ended')) AS errors,
count(*) FILTER (number = 1) AS calls,
count(*) AS attempts,
CAST(sum(input_tokens) AS BIGINT) AS input_tokens,
CAST(sum(output_tokens) AS BIGINT) AS output_tokens,
CAST(sum(cache_read_tokens) AS BIGINT) AS cache_read_tokens,
CAST(sum(cache_write_tokens) AS BIGINT) AS cache_write_tokens,
CAST(sum(reasoning_tokens) AS BIGINT) AS reasoning_tokens,
count(*) - count(cost_nanousd) AS unpriced_calls,
count(*) FILTER (estimated) AS estimated_calls,
CAST(sum(cost_nanousd) AS BIGINT) AS cost_nanousd

-- name: quiet_links
-- What tasks that are in no row of ``own`` say of their parents: a task may have made no call, only spans.
SELECT task, max(parent_task) AS parent
FROM span
WHERE task NOT IN ('', parent_task) AND parent_task <> '' AND task NOT IN (SELECT task FROM own)
GROUP BY task

-- name: tasks
-- Every task with its own figures and what its descendants add, dearest first. A parent that made no matching call
-- itself is listed too. Links are followed $depth_max levels; a circle of links counts each task once.
WITH RECURSIVE own AS MATERIALIZED (
    SELECT task, {task_columns} FROM attempt WHERE task <> '' AND {condition} GROUP BY task
),
link AS MATERIALIZED (
    SELECT task, parent FROM own WHERE parent <> '' AND parent <> task
    UNION ALL
    {quiet_links}
),
line(ancestor, task, depth) AS (
    SELECT parent, task, 1 FROM link
    UNION ALL
    SELECT link.parent, line.task, depth + 1 FROM line JOIN link ON link.task = line.ancestor WHERE depth < $depth_max
),
below AS MATERIALIZED (
    SELECT ancestor,
           count(*) AS below_tasks,
           min(first_us) AS below_first_us,
           max(last_us) AS below_last_us,
           CAST(sum(calls) AS BIGINT) AS below_calls,
           CAST(sum(attempts) AS BIGINT) AS below_attempts,
           CAST(sum(errors) AS BIGINT) AS below_errors,
           CAST(sum(unpriced_calls) AS BIGINT) AS below_unpriced_calls,
           CAST(sum(estimated_calls) AS BIGINT) AS below_estimated_calls,
           CAST(sum(cost_nanousd) AS BIGINT) AS below_cost_nanousd
    FROM (SELECT DISTINCT ancestor, task FROM line WHERE ancestor <> task) JOIN own USING (task)
    GROUP BY ancestor
)
SELECT coalesce(own.task, below.ancestor) AS task, coalesce(own.parent, link.parent) AS parent,
       own.* EXCLUDE (task, parent), below.* EXCLUDE (ancestor), last.outcome, last.value_nanousd, count(*) OVER () AS task_count
FROM own
FULL JOIN below ON below.ancestor = own.task
LEFT JOIN link ON link.task = below.ancestor
LEFT JOIN (
    SELECT task, outcome, value_nanousd FROM outcome QUALIFY row_number() OVER (PARTITION BY task ORDER BY sequence DESC) = 1
) AS last ON last.task = coalesce(own.task, below.ancestor)
ORDER BY CASE WHEN coalesce(cost_nanousd, 0) + coalesce(below_cost_nanousd, 0) > 0 THEN 0
              WHEN coalesce(unpriced_calls, 0) + coalesce(below_unpriced_calls, 0) > 0 THEN 1
              ELSE 2 END,
         coalesce(cost_nanousd, 0) + coalesce(below_cost_nanousd, 0) DESC,
         coalesce(last_us, below_last_us) DESC,
         coalesce(own.task, below.ancestor)
LIMIT $limit

-- name: top_tasks
-- Spend by the tasks that are no part of another, with everything below them in their figures; calls without a task are
-- one row. Links are followed $depth_max levels. Of a circle of links the first name stands for all of it.
WITH RECURSIVE own AS MATERIALIZED (
    SELECT task, max(parent_task) AS parent, {measures} FROM spend WHERE {condition} GROUP BY task
),
link AS MATERIALIZED (
    SELECT task, parent FROM own WHERE task <> '' AND parent <> '' AND parent <> task
    UNION ALL
    {quiet_links}
),
line(task, ancestor, depth) AS (
    SELECT task, parent, 1 FROM link
    UNION ALL
    SELECT line.task, link.parent, depth + 1 FROM line JOIN link ON link.task = line.ancestor WHERE depth < $depth_max
),
circle AS (
    SELECT DISTINCT task FROM line WHERE ancestor = task
),
top AS (
    SELECT line.task, coalesce(
        max(ancestor) FILTER (link.task IS NULL),
        min(ancestor) FILTER (circle.task IS NOT NULL),
        arg_max(ancestor, depth)
    ) AS top
    FROM line LEFT JOIN link ON link.task = line.ancestor LEFT JOIN circle ON circle.task = line.ancestor
    GROUP BY line.task
),
grouped AS (
    SELECT coalesce(top.top, own.task) AS task, {measures}, count(*) FILTER (top.top <> own.task) AS sub_tasks
    FROM own LEFT JOIN top ON top.task = own.task
    GROUP BY ALL
)
SELECT *, count(*) OVER () AS task_count
FROM grouped
ORDER BY {ordering}, task
LIMIT $limit

-- name: task_links
-- Every task that a call or a span names, with its parent.
SELECT task, max(parent_task) AS parent, max(started_at) AS last_at
FROM (
    SELECT task, parent_task, started_at FROM attempt UNION ALL SELECT task, parent_task, started_at FROM span
)
WHERE task <> ''
GROUP BY task

-- name: task_candidates
-- The tasks whose id is, or begins with, the given text: the exact one first, those below another of them last, then
-- the latest.
WITH RECURSIVE named AS MATERIALIZED (
    {task_links}
),
found AS MATERIALIZED (
    SELECT task, max(last_at) AS last_at
    FROM (SELECT task, last_at FROM named UNION ALL SELECT parent, last_at FROM named)
    WHERE task <> '' AND starts_with(task, $id)
    GROUP BY task
),
link AS MATERIALIZED (
    SELECT task, parent FROM named WHERE parent NOT IN ('', task)
),
line AS (
    SELECT link.task, link.parent AS ancestor FROM link JOIN found USING (task)
    UNION
    SELECT line.task, link.parent
    FROM line JOIN link ON link.task = line.ancestor
    WHERE line.ancestor NOT IN (SELECT task FROM found)
)
SELECT task, task IN (SELECT line.task FROM line JOIN found ON found.task = line.ancestor) AS is_part
FROM found
ORDER BY task = $id DESC, is_part, last_at DESC, task
LIMIT $limit

-- name: subtree
-- A task and all of its descendants. UNION keeps each task once, so a circle of links ends.
WITH RECURSIVE link AS MATERIALIZED (
    {task_links}
),
tree AS (
    SELECT CAST($id AS VARCHAR) AS task
    UNION
    SELECT link.task FROM link JOIN tree ON link.parent = tree.task
)
SELECT tree.task, coalesce(link.parent, '') AS parent
FROM tree LEFT JOIN link ON link.task = tree.task
ORDER BY tree.task
LIMIT $limit

-- name: figures
-- What each of some tasks spent itself.
SELECT task, {task_columns}
FROM attempt
WHERE task IN (SELECT unnest(CAST($tasks AS VARCHAR[])))
GROUP BY task

-- name: steps
-- The attempts of some tasks, in the order they started.
SELECT {step_columns}
FROM attempt
WHERE task IN (SELECT unnest(CAST($tasks AS VARCHAR[])))
ORDER BY started_at, sequence
LIMIT $limit
