-- Alerts and their notices, beside the books. Times are microseconds since 1970.

CREATE TABLE IF NOT EXISTS alert (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,                   -- what it is about, the window included, see core/alerts.py
    labels TEXT NOT NULL,                -- JSON object
    annotations TEXT NOT NULL,           -- JSON object
    level INTEGER NOT NULL,              -- the limit or threshold it was measured against when it fired
    fired_us INTEGER NOT NULL,
    resolved_us INTEGER                  -- NULL while it fires
) STRICT;

-- Whoever evaluates, and however often: one thing fires once at a time.
CREATE UNIQUE INDEX IF NOT EXISTS alert_firing ON alert (key) WHERE resolved_us IS NULL;
CREATE INDEX IF NOT EXISTS alert_fired ON alert (fired_us);

CREATE TABLE IF NOT EXISTS alert_delivery (
    id INTEGER PRIMARY KEY,              -- grows: the notices of one alert go to a channel in this order
    alert_id INTEGER NOT NULL,
    channel TEXT NOT NULL,
    event TEXT NOT NULL,                 -- firing | resolved
    notice_id TEXT NOT NULL,             -- the idempotency id that receivers see
    state TEXT NOT NULL,                 -- pending | sent | dead
    attempts INTEGER NOT NULL,
    next_us INTEGER NOT NULL,            -- pending: not before then. While it is being sent: when somebody else may try
    error TEXT NOT NULL                  -- of the last attempt, without secrets
) STRICT;

CREATE INDEX IF NOT EXISTS alert_delivery_alert ON alert_delivery (alert_id);
CREATE INDEX IF NOT EXISTS alert_delivery_open ON alert_delivery (channel, id) WHERE state <> 'sent';

CREATE TABLE IF NOT EXISTS alert_memory (
    name TEXT PRIMARY KEY,               -- generation: grows with each change of alert | prices: the last change of prices
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
