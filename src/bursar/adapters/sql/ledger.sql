-- The ledger: one row per attempt that ended. Amounts are nano-USD; NULL is "not known", never 0. Times are UTC.
CREATE TABLE IF NOT EXISTS attempt (
    sequence BIGINT NOT NULL,            -- of the books' ending this row came from
    attempt_id VARCHAR NOT NULL,
    call_id VARCHAR NOT NULL,
    number INTEGER NOT NULL,             -- attempts of one call count from 1
    kind VARCHAR NOT NULL,               -- model | tool
    door VARCHAR NOT NULL,               -- gateway | sdk | otlp | import
    operation VARCHAR NOT NULL,          -- chat_completions | responses | messages | generate_content | ...
    started_at TIMESTAMP NOT NULL,               -- when the attempt started
    provider VARCHAR NOT NULL,
    model_asked VARCHAR NOT NULL,
    model VARCHAR NOT NULL,              -- the model that answered, as the provider names it
    org VARCHAR NOT NULL,
    team VARCHAR NOT NULL,
    project VARCHAR NOT NULL,
    "user" VARCHAR NOT NULL,
    agent VARCHAR NOT NULL,
    session VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    parent_task VARCHAR NOT NULL,
    key VARCHAR NOT NULL,                -- the virtual key's name
    labels MAP(VARCHAR, VARCHAR) NOT NULL,
    input_tokens BIGINT,                 -- inclusive of cache reads and writes; NULL when usage is not known
    cache_read_tokens BIGINT,
    cache_write_tokens BIGINT,
    cache_write_1h_tokens BIGINT,
    output_tokens BIGINT,                -- inclusive of reasoning
    reasoning_tokens BIGINT,
    units MAP(VARCHAR, BIGINT) NOT NULL, -- every unit that is not zero
    cost_nanousd BIGINT,                 -- NULL: unpriced, see unpriced_reason
    cost_input_nanousd BIGINT,           -- input that was neither read from nor written to a cache
    cost_cache_read_nanousd BIGINT,
    cost_cache_write_nanousd BIGINT,
    cost_output_nanousd BIGINT,
    cost_other_nanousd BIGINT,           -- searches, requests, seconds, what a provider reported on top
    unpriced_reason VARCHAR,
    reported_nanousd BIGINT,             -- what the provider itself said it charged
    avoided_nanousd BIGINT,              -- what a cached answer would have cost; never part of spend
    lines STRUCT(unit VARCHAR, units BIGINT, rate_usd VARCHAR, price_row VARCHAR, cost_nanousd BIGINT)[] NOT NULL,
    price_book VARCHAR NOT NULL,
    notes VARCHAR[] NOT NULL,
    estimated BOOLEAN NOT NULL,
    latency_ms DOUBLE,
    first_token_ms DOUBLE,
    status VARCHAR NOT NULL,             -- ok | error | cancelled | cut | expired
    http_status INTEGER,
    error VARCHAR NOT NULL,
    response_id VARCHAR NOT NULL,
    finish VARCHAR NOT NULL,
    tools VARCHAR[] NOT NULL,
    stream BOOLEAN NOT NULL,
    trace_id VARCHAR NOT NULL,
    span_id VARCHAR NOT NULL,
    decision VARCHAR NOT NULL,           -- JSON
    rung VARCHAR NOT NULL DEFAULT '',    -- of its route: primary | fallback | cached | stale; '' where no route was asked for
    cache VARCHAR NOT NULL DEFAULT '',   -- '' not looked at | miss | the tier that answered: exact | template | coalesced | semantic | tool | stale
    cause VARCHAR NOT NULL DEFAULT ''    -- why it is not on the first rung
);
-- What ledgers of version 2 lack.
ALTER TABLE attempt ADD COLUMN IF NOT EXISTS rung VARCHAR DEFAULT '';
ALTER TABLE attempt ADD COLUMN IF NOT EXISTS cache VARCHAR DEFAULT '';
ALTER TABLE attempt ADD COLUMN IF NOT EXISTS cause VARCHAR DEFAULT '';

-- Attempts older than the retention, summed per day and scope (session, task and labels are given up).
CREATE TABLE IF NOT EXISTS rollup (
    started_at TIMESTAMP NOT NULL,               -- the day
    kind VARCHAR NOT NULL,
    door VARCHAR NOT NULL,
    provider VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    team VARCHAR NOT NULL,
    project VARCHAR NOT NULL,
    "user" VARCHAR NOT NULL,
    agent VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    calls BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    estimated_calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_nanousd BIGINT NOT NULL,
    avoided_nanousd BIGINT NOT NULL,
    rung VARCHAR NOT NULL DEFAULT '',
    cache VARCHAR NOT NULL DEFAULT ''
);
ALTER TABLE rollup ADD COLUMN IF NOT EXISTS rung VARCHAR DEFAULT '';
ALTER TABLE rollup ADD COLUMN IF NOT EXISTS cache VARCHAR DEFAULT '';

-- The shape of tasks: what happened when, below what. No money: a span that was paid for names its attempt.
CREATE TABLE IF NOT EXISTS span (
    sequence BIGINT NOT NULL,            -- of the trace store's row this one came from; the latest row of a span counts
    trace_id VARCHAR NOT NULL,
    span_id VARCHAR NOT NULL,
    parent_id VARCHAR NOT NULL,          -- '' for the first span of its trace
    name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,               -- model | tool | agent | task | step
    door VARCHAR NOT NULL,               -- sdk | otlp | import
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,             -- ok | error
    error VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    team VARCHAR NOT NULL,
    project VARCHAR NOT NULL,
    "user" VARCHAR NOT NULL,
    agent VARCHAR NOT NULL,
    session VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    parent_task VARCHAR NOT NULL,
    tool VARCHAR NOT NULL,
    size_bytes BIGINT,
    attempt_id VARCHAR NOT NULL          -- the charge that this span stands for, '' where it was not paid for by itself
);

-- What became of tasks. The latest row of a task counts.
CREATE TABLE IF NOT EXISTS outcome (
    sequence BIGINT NOT NULL,
    task VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,
    value_nanousd BIGINT,                -- what it was worth; NULL: not said
    note VARCHAR NOT NULL,
    said_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS trace_position (last_sequence BIGINT NOT NULL);
INSERT INTO trace_position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM trace_position);

CREATE TABLE IF NOT EXISTS position (last_sequence BIGINT NOT NULL);
INSERT INTO position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM position);

-- What every view of spend reads: attempts and what has been rolled up, in the same columns.
CREATE OR REPLACE VIEW spend AS
SELECT started_at, kind, door, provider, model, org, team, project, "user", agent, session, task, parent_task, key, labels, status,
       CASE WHEN number = 1 THEN 1 ELSE 0 END AS calls,
       1 AS attempts,
       CASE WHEN cost_nanousd IS NULL THEN 1 ELSE 0 END AS unpriced_calls,
       CASE WHEN estimated THEN 1 ELSE 0 END AS estimated_calls,
       input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanousd, avoided_nanousd, rung,
       cache
FROM attempt
UNION ALL
SELECT started_at, kind, door, provider, model, org, team, project, "user", agent, '' AS session, '' AS task, '' AS parent_task,
       key, MAP {}::MAP(VARCHAR, VARCHAR) AS labels, status, calls, attempts, unpriced_calls, estimated_calls,
       input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanousd, avoided_nanousd, rung,
       cache
FROM rollup;
COMMENT ON TABLE position IS '3'; -- the version of this schema
