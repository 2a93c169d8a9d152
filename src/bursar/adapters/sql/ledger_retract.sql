-- Rows of a file (ledger_append.sql) that take others back: those others go, whether they are in the ledger or in the same
-- file, and neither row is entered. What has been summed up already cannot go: there the row evens it out.
CREATE OR REPLACE TEMP TABLE taken_back AS
WITH file AS (
    SELECT sequence, retracts, retracts_sequence
    FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
        'sequence': 'BIGINT', 'retracts': 'VARCHAR', 'retracts_sequence': 'BIGINT'
    })
    WHERE sequence > (SELECT last_sequence FROM position)
),
found AS (
    SELECT back.sequence, back.retracts_sequence
    FROM file AS back
    WHERE back.retracts IS NOT NULL
      AND (back.retracts_sequence IN (SELECT sequence FROM file)
           OR EXISTS (SELECT 1 FROM attempt a WHERE a.sequence = back.retracts_sequence AND a.attempt_id = back.retracts))
)
SELECT sequence FROM found UNION ALL SELECT retracts_sequence FROM found;
DELETE FROM attempt WHERE sequence IN (SELECT sequence FROM taken_back);
