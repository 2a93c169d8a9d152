-- Takes a file of what became of tasks, one JSON object a line, in order: the latest word of a task counts.
DELETE FROM outcome WHERE task IN (
    SELECT task
    FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
        'sequence': 'BIGINT', 'task': 'VARCHAR', 'outcome': 'VARCHAR'
    })
    WHERE sequence > (SELECT last_sequence FROM trace_position)
);
INSERT INTO outcome
SELECT sequence, task, outcome, value_nanousd, coalesce(note, ''), make_timestamp(at_us)
FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
    'sequence': 'BIGINT', 'task': 'VARCHAR', 'outcome': 'VARCHAR', 'value_nanousd': 'BIGINT', 'note': 'VARCHAR',
    'at_us': 'BIGINT'
})
WHERE sequence > (SELECT last_sequence FROM trace_position)
QUALIFY row_number() OVER (PARTITION BY task ORDER BY sequence DESC, at_us DESC) = 1;
