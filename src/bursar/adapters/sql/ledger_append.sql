-- Takes a file of rows, one JSON object a line, in order. Rows up to the position are passed over: shipping twice changes nothing.
INSERT INTO attempt
SELECT sequence, attempt_id, call_id, number, kind, door, operation, make_timestamp(started_us), provider, model_asked, model,
       org, team, project, "user", agent, session, task, parent_task, key, coalesce(labels, MAP {}),
       input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
       coalesce(units, MAP {}),
       cost_nanousd, cost_input_nanousd, cost_cache_read_nanousd, cost_cache_write_nanousd, cost_output_nanousd,
       cost_other_nanousd, unpriced_reason, reported_nanousd, avoided_nanousd, coalesce(lines, []), price_book,
       coalesce(notes, []), estimated, latency_ms, first_token_ms, status, http_status, error, response_id, finish,
       coalesce(tools, []), stream, trace_id, span_id, decision
FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
    'sequence': 'BIGINT', 'attempt_id': 'VARCHAR', 'call_id': 'VARCHAR', 'number': 'INTEGER', 'kind': 'VARCHAR',
    'door': 'VARCHAR', 'operation': 'VARCHAR', 'started_us': 'BIGINT', 'provider': 'VARCHAR', 'model_asked': 'VARCHAR',
    'model': 'VARCHAR', 'org': 'VARCHAR', 'team': 'VARCHAR', 'project': 'VARCHAR', 'user': 'VARCHAR', 'agent': 'VARCHAR',
    'session': 'VARCHAR', 'task': 'VARCHAR', 'parent_task': 'VARCHAR', 'key': 'VARCHAR',
    'labels': 'MAP(VARCHAR, VARCHAR)', 'input_tokens': 'BIGINT', 'cache_read_tokens': 'BIGINT',
    'cache_write_tokens': 'BIGINT', 'cache_write_1h_tokens': 'BIGINT', 'output_tokens': 'BIGINT',
    'reasoning_tokens': 'BIGINT', 'units': 'MAP(VARCHAR, BIGINT)', 'cost_nanousd': 'BIGINT',
    'cost_input_nanousd': 'BIGINT', 'cost_cache_read_nanousd': 'BIGINT', 'cost_cache_write_nanousd': 'BIGINT',
    'cost_output_nanousd': 'BIGINT', 'cost_other_nanousd': 'BIGINT', 'unpriced_reason': 'VARCHAR',
    'reported_nanousd': 'BIGINT', 'avoided_nanousd': 'BIGINT',
    'lines': 'STRUCT(unit VARCHAR, units BIGINT, rate_usd VARCHAR, price_row VARCHAR, cost_nanousd BIGINT)[]',
    'price_book': 'VARCHAR', 'notes': 'VARCHAR[]', 'estimated': 'BOOLEAN', 'latency_ms': 'DOUBLE',
    'first_token_ms': 'DOUBLE', 'status': 'VARCHAR', 'http_status': 'INTEGER', 'error': 'VARCHAR',
    'response_id': 'VARCHAR', 'finish': 'VARCHAR', 'tools': 'VARCHAR[]', 'stream': 'BOOLEAN', 'trace_id': 'VARCHAR',
    'span_id': 'VARCHAR', 'decision': 'VARCHAR'
})
WHERE sequence > (SELECT last_sequence FROM position)
