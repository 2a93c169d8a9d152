-- What telemetry said, until it is decided (arrival), and what was decided (segment): the outbox of the ledger's spans.
-- No prompt, no answer and no argument of a tool is ever in here.

CREATE TABLE IF NOT EXISTS arrival (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    observations BLOB NOT NULL           -- a list of observations, MessagePack; goes when every one of them is decided
) STRICT;

CREATE TABLE IF NOT EXISTS segment (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    trace TEXT NOT NULL,                 -- "" for outcomes of tasks
    at_us INTEGER NOT NULL,
    decided INTEGER NOT NULL,            -- 1: by the receiver; 0: its writer has charged what there is to charge
    revised INTEGER NOT NULL,            -- 1: some of it was in an earlier segment; the later one counts
    lines BLOB NOT NULL,                 -- rows of the ledger, one JSON object a line
    rest BLOB NOT NULL                   -- what it takes besides to decide again, MessagePack; empty for outcomes
) STRICT;
CREATE INDEX IF NOT EXISTS segment_trace ON segment (trace) WHERE trace <> '';

-- Charges of other doors, by the span they were made under. source: gateway | sdk | import
CREATE TABLE IF NOT EXISTS nearer (
    attempt_id TEXT PRIMARY KEY,
    trace TEXT NOT NULL,
    span_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nearer_trace ON nearer (trace);

-- Calls of nearer doors by what their provider named the request in the answer's headers: some records know them by that only.
CREATE TABLE IF NOT EXISTS request (
    key TEXT PRIMARY KEY,                -- provider and its request's id
    attempt_id TEXT NOT NULL,
    door TEXT NOT NULL,                  -- gateway | sdk
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who stands back because another observation holds the charge of the same response: asked again when that one gives it up.
CREATE TABLE IF NOT EXISTS follower (
    holder TEXT NOT NULL,
    trace TEXT NOT NULL,
    key TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (holder, trace, key)
) STRICT, WITHOUT ROWID;

-- Groups (sessions, processes) that have sent spans or records with figures: their metrics do not count.
CREATE TABLE IF NOT EXISTS figured (
    name TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Where each cumulative counter stood.
CREATE TABLE IF NOT EXISTS series (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the books have been followed; -1: nobody has begun.
CREATE TABLE IF NOT EXISTS followed (
    sequence INTEGER NOT NULL
) STRICT;
INSERT INTO followed SELECT -1 WHERE NOT EXISTS (SELECT 1 FROM followed);
