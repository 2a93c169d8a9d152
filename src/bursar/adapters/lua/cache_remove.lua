-- KEYS: an index, or none. ARGV: prefix, names that an entry must have (JSON), the most entries, one entry's key where there is no
-- index. Takes entries off the index and removes those that have all the names. Returns how many it looked at, and removed.
local prefix = ARGV[1]
local members = {ARGV[4]}
if KEYS[1] then
    members = redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1)
end
local removed = 0
for _, key in ipairs(members) do
    local entry = prefix .. 'e:' .. key
    local text = redis.call('HGET', entry, 'names')
    if text then
        local names, has = cjson.decode(text), {}
        for _, name in ipairs(names) do
            has[name] = true
        end
        local all = true
        for _, name in ipairs(cjson.decode(ARGV[2])) do
            all = all and has[name]
        end
        if all then
            for _, name in ipairs(names) do
                redis.call('ZREM', prefix .. 'i:' .. name, key)
            end
            removed = removed + redis.call('UNLINK', entry)
        end
    end
    if KEYS[1] then
        redis.call('ZREM', KEYS[1], key)
    end
end
return {#members, removed}
