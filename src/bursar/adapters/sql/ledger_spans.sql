-- Takes a file of spans, one JSON object a line, in order. Rows up to the position are passed over.
INSERT INTO span
SELECT sequence, trace_id, span_id, coalesce(parent_id, ''), coalesce(name, ''), kind, door, make_timestamp(started_us),
       make_timestamp(ended_us), coalesce(status, 'ok'), coalesce(error, ''), coalesce(org, ''), coalesce(team, ''),
       coalesce(project, ''), coalesce("user", ''), coalesce(agent, ''), coalesce(session, ''), coalesce(task, ''),
       coalesce(parent_task, ''), coalesce(tool, ''), size_bytes, coalesce(attempt_id, '')
FROM read_json($path, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
    'sequence': 'BIGINT', 'trace_id': 'VARCHAR', 'span_id': 'VARCHAR', 'parent_id': 'VARCHAR', 'name': 'VARCHAR',
    'kind': 'VARCHAR', 'door': 'VARCHAR', 'started_us': 'BIGINT', 'ended_us': 'BIGINT', 'status': 'VARCHAR',
    'error': 'VARCHAR', 'org': 'VARCHAR', 'team': 'VARCHAR', 'project': 'VARCHAR', 'user': 'VARCHAR', 'agent': 'VARCHAR',
    'session': 'VARCHAR', 'task': 'VARCHAR', 'parent_task': 'VARCHAR', 'tool': 'VARCHAR', 'size_bytes': 'BIGINT',
    'attempt_id': 'VARCHAR'
})
WHERE sequence > (SELECT last_sequence FROM trace_position)
-- Of what came twice in one file the later counts.
QUALIFY row_number() OVER (PARTITION BY trace_id, span_id ORDER BY sequence DESC) = 1
