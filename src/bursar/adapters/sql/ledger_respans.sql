-- Spans of a file (ledger_spans.sql) that were taken before: those in the file stand in their place.
DELETE FROM span WHERE (trace_id, span_id) IN (
    SELECT trace_id, span_id
    FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
        'sequence': 'BIGINT', 'trace_id': 'VARCHAR', 'span_id': 'VARCHAR', 'revised': 'BOOLEAN'
    })
    WHERE revised AND sequence > (SELECT last_sequence FROM trace_position)
);
