-- KEYS: the entry. ARGV: prefix, the entry's key. Returns its data.
-- A server that is short of memory may have dropped an index: what no removal would find any more is not given either.
local found = redis.call('HMGET', KEYS[1], 'data', 'names')
if not found[1] then
    return false
end
for _, name in ipairs(cjson.decode(found[2])) do
    if not redis.call('ZSCORE', ARGV[1] .. 'i:' .. name, ARGV[2]) then
        redis.call('UNLINK', KEYS[1])
        return false
    end
end
return found[1]
