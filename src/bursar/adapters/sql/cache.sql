-- Kept answers. Times are microseconds since 1970.

CREATE TABLE IF NOT EXISTS answer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: another id is another entry
    key TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    route TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    cost INTEGER,                         -- nano-USD; NULL: not known
    hits INTEGER NOT NULL,
    worth INTEGER NOT NULL,               -- see core/caching.py: the least goes first
    stale_us INTEGER NOT NULL,            -- past it the entry is gone
    stored_us INTEGER NOT NULL            -- when its answer was asked for: nothing older replaces it
) STRICT;

CREATE INDEX IF NOT EXISTS answer_worth ON answer (worth, id);
CREATE INDEX IF NOT EXISTS answer_stale ON answer (stale_us);

-- Apart from the rest, so that looking through all entries does not read all answers.
CREATE TABLE IF NOT EXISTS packed (
    id INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS tag (
    id INTEGER NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (id, tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS tag_tag ON tag (tag);

-- When tags were last removed: what was asked for before that comes too late to be kept.
CREATE TABLE IF NOT EXISTS removed (
    tag TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tally (
    entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    evicted INTEGER NOT NULL,
    floor INTEGER NOT NULL,               -- the worth of what had to go last
    gone INTEGER NOT NULL                 -- entries taken away, for whatever reason, since the file was made
) STRICT;

INSERT INTO tally SELECT 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM tally);
