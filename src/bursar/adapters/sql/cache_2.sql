-- From schema 1: of what was kept before, nobody knows when it was asked for.
ALTER TABLE answer ADD COLUMN stored_us INTEGER NOT NULL DEFAULT 0;
