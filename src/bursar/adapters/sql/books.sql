-- The books: entries are the truth, balances and open holds are projections of them. Amounts are nano-USD.

CREATE TABLE IF NOT EXISTS entry (
    sequence INTEGER PRIMARY KEY,        -- grows in the order of commits; the newest entry is never deleted, so no number returns
    attempt_id TEXT NOT NULL,
    stage INTEGER NOT NULL,              -- 0 the hold, 1 the ending, 2 a correction, 3 a rollup, 4 and on: extensions of the hold
    kind TEXT NOT NULL,                  -- hold | extend | settle | void | expire | adjust | retract | rollup
    at_us INTEGER NOT NULL,
    held_nanousd INTEGER NOT NULL,       -- change of what is held
    spent_nanousd INTEGER NOT NULL,      -- change of what is spent
    unpriced INTEGER NOT NULL,           -- change of the count of attempts whose charge is not known
    held_tokens INTEGER NOT NULL DEFAULT 0,
    spent_tokens INTEGER NOT NULL DEFAULT 0,
    held_calls INTEGER NOT NULL DEFAULT 0,
    spent_calls INTEGER NOT NULL DEFAULT 0,
    assumed_nanousd INTEGER NOT NULL DEFAULT 0, -- what was held for attempts whose charge is not known: budgets count it
    accounts TEXT NOT NULL,              -- JSON list: the accounts the changes are posted to
    payload BLOB,                        -- stage 0: the opening; later: the ledger row. JSON
    response_key TEXT                    -- provider and its response id: an import of the same response is passed over
) STRICT;

-- An attempt is held once and ended once.
CREATE UNIQUE INDEX IF NOT EXISTS entry_once ON entry (attempt_id, stage);
CREATE INDEX IF NOT EXISTS entry_response ON entry (response_key) WHERE response_key IS NOT NULL;

CREATE TABLE IF NOT EXISTS open_hold (
    attempt_id TEXT PRIMARY KEY,
    amount_nanousd INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    accounts TEXT NOT NULL,              -- as in its entry: the ending is posted to the same ones
    tokens INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS balance (
    account TEXT PRIMARY KEY,
    held_nanousd INTEGER NOT NULL,
    spent_nanousd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    held_tokens INTEGER NOT NULL DEFAULT 0,
    spent_tokens INTEGER NOT NULL DEFAULT 0,
    held_calls INTEGER NOT NULL DEFAULT 0,
    spent_calls INTEGER NOT NULL DEFAULT 0,
    assumed_nanousd INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Ids of imported attempts and keys of responses whose entries have been rolled up: importing them again must still
-- change nothing.
CREATE TABLE IF NOT EXISTS imported (
    digest BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS virtual_key (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,         -- SHA-256 of the key; the key itself is shown once and not kept
    hint TEXT NOT NULL,                  -- its last four characters, to tell keys apart
    scope TEXT NOT NULL,                 -- JSON: the scope columns and labels calls with this key get
    created_us INTEGER NOT NULL,
    revoked_us INTEGER
) STRICT;

-- Budgets that were set by command or API; those of bursar.yaml stay there.
CREATE TABLE IF NOT EXISTS budget (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,                  -- JSON, as in bursar.yaml
    changed_us INTEGER NOT NULL
) STRICT;

-- Tasks that stand below another one or have a limit of their own.
CREATE TABLE IF NOT EXISTS task (
    task TEXT PRIMARY KEY,
    parent TEXT NOT NULL,                -- "" for none; set once
    limit_nanousd INTEGER,               -- NULL: no limit of its own
    reserve_nanousd INTEGER NOT NULL,    -- the part of the limit that only its last call may use
    opened_by TEXT NOT NULL,             -- the virtual key that began it: requests with another one may change nothing of it
    opened_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS task_parent ON task (parent) WHERE parent <> '';

-- What somebody must say yes to before calls go on.
CREATE TABLE IF NOT EXISTS approval (
    id TEXT PRIMARY KEY,
    budget TEXT NOT NULL,
    account TEXT NOT NULL,
    who TEXT NOT NULL,                   -- JSON: the scope of the call that asked first
    state TEXT NOT NULL,                 -- pending | granted | declined
    asked_us INTEGER NOT NULL,
    decided_us INTEGER,
    expires_us INTEGER                   -- with its window; NULL: not by itself
) STRICT, WITHOUT ROWID;
