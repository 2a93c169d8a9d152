-- Takes a file of rows, one JSON object a line, in order. Rows up to the position are passed over: shipping twice changes nothing.
-- A row that takes another one back is entered only where that has been summed up already (ledger_retract.sql went before).
INSERT INTO attempt
SELECT sequence, attempt_id, call_id, coalesce(number, 1), coalesce(kind, 'model'), door, operation, make_timestamp(started_us),
       provider, model_asked, model, coalesce(org, ''), coalesce(team, ''), coalesce(project, ''), coalesce("user", ''),
       coalesce(agent, ''), coalesce(session, ''), coalesce(task, ''), coalesce(parent_task, ''), coalesce(key, ''),
       coalesce(labels, MAP {}),
       -- No units: the usage is not known, and neither is any count.
       CASE WHEN units IS NOT NULL THEN coalesce(units['input_tokens'], 0) END,
       CASE WHEN units IS NOT NULL THEN coalesce(units['cache_read_tokens'], 0) END,
       CASE WHEN units IS NOT NULL THEN coalesce(units['cache_write_tokens'], 0) END,
       CASE WHEN units IS NOT NULL THEN coalesce(units['cache_write_1h_tokens'], 0) END,
       CASE WHEN units IS NOT NULL THEN coalesce(units['output_tokens'], 0) END,
       CASE WHEN units IS NOT NULL THEN coalesce(units['reasoning_tokens'], 0) END,
       coalesce(units, MAP {}),
       -- No cost: unpriced, and so is every part of it.
       cost_nanousd,
       CASE WHEN cost_nanousd IS NOT NULL THEN coalesce(cost_input_nanousd, 0) END,
       CASE WHEN cost_nanousd IS NOT NULL THEN coalesce(cost_cache_read_nanousd, 0) END,
       CASE WHEN cost_nanousd IS NOT NULL THEN coalesce(cost_cache_write_nanousd, 0) END,
       CASE WHEN cost_nanousd IS NOT NULL THEN coalesce(cost_output_nanousd, 0) END,
       CASE WHEN cost_nanousd IS NOT NULL THEN coalesce(cost_other_nanousd, 0) END,
       unpriced_reason, reported_nanousd, avoided_nanousd, coalesce(lines, []), price_book, coalesce(notes, []),
       coalesce(estimated, false), latency_ms, first_token_ms, coalesce(status, 'ok'), http_status, coalesce(error, ''),
       coalesce(response_id, ''), coalesce(finish, ''), coalesce(tools, []), coalesce(stream, false),
       coalesce(trace_id, ''), coalesce(span_id, ''), coalesce(decision, '{}'), coalesce(rung, ''), coalesce(cache, ''),
       coalesce(cause, '')
FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
    'sequence': 'BIGINT', 'attempt_id': 'VARCHAR', 'call_id': 'VARCHAR', 'number': 'INTEGER', 'kind': 'VARCHAR',
    'door': 'VARCHAR', 'operation': 'VARCHAR', 'started_us': 'BIGINT', 'provider': 'VARCHAR', 'model_asked': 'VARCHAR',
    'model': 'VARCHAR', 'org': 'VARCHAR', 'team': 'VARCHAR', 'project': 'VARCHAR', 'user': 'VARCHAR', 'agent': 'VARCHAR',
    'session': 'VARCHAR', 'task': 'VARCHAR', 'parent_task': 'VARCHAR', 'key': 'VARCHAR',
    'labels': 'MAP(VARCHAR, VARCHAR)', 'units': 'MAP(VARCHAR, BIGINT)', 'cost_nanousd': 'BIGINT',
    'cost_input_nanousd': 'BIGINT', 'cost_cache_read_nanousd': 'BIGINT', 'cost_cache_write_nanousd': 'BIGINT',
    'cost_output_nanousd': 'BIGINT', 'cost_other_nanousd': 'BIGINT', 'unpriced_reason': 'VARCHAR',
    'reported_nanousd': 'BIGINT', 'avoided_nanousd': 'BIGINT',
    'lines': 'STRUCT(unit VARCHAR, units BIGINT, rate_usd VARCHAR, price_row VARCHAR, cost_nanousd BIGINT)[]',
    'price_book': 'VARCHAR', 'notes': 'VARCHAR[]', 'estimated': 'BOOLEAN', 'latency_ms': 'DOUBLE',
    'first_token_ms': 'DOUBLE', 'status': 'VARCHAR', 'http_status': 'INTEGER', 'error': 'VARCHAR',
    'response_id': 'VARCHAR', 'finish': 'VARCHAR', 'tools': 'VARCHAR[]', 'stream': 'BOOLEAN', 'trace_id': 'VARCHAR',
    'span_id': 'VARCHAR', 'decision': 'VARCHAR', 'rung': 'VARCHAR', 'cache': 'VARCHAR', 'cause': 'VARCHAR', 'retracts': 'VARCHAR', 'retracts_sequence': 'BIGINT'
})
WHERE sequence > (SELECT last_sequence FROM position)
  AND sequence NOT IN (SELECT sequence FROM taken_back)
