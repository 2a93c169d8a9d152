-- name: step_columns
-- One attempt as people look at it: no wide columns.
sequence,
attempt_id,
call_id,
number,
epoch_us(started_at) AS started_us,
kind,
door,
operation,
provider,
model_asked,
model,
agent,
"user" AS user,
session,
task,
parent_task,
input_tokens,
output_tokens,
cache_read_tokens,
cache_write_tokens,
reasoning_tokens,
cost_nanousd,
unpriced_reason,
estimated,
latency_ms,
first_token_ms,
status,
http_status,
error,
finish,
tools,
rung,
cache,
cause,
avoided_nanousd

-- name: feed
-- The newest attempts past a sequence, newest first.
SELECT {step_columns}
FROM attempt
WHERE sequence > $after
ORDER BY sequence DESC
LIMIT $limit
