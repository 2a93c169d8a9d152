-- KEYS: the entry. ARGV: prefix, the entry's key, data, names (JSON), tags (JSON), when it was asked for (us), life (ms),
-- the most members of an index. Returns 1 where it is kept.
-- An index is a sorted set: members are keys of entries, scores the times (ms) at which they are gone.
local prefix, key, life = ARGV[1], ARGV[2], tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local before = redis.call('HGET', KEYS[1], 'names')
if before then
    for _, name in ipairs(cjson.decode(before)) do
        redis.call('ZREM', prefix .. 'i:' .. name, key)
    end
    redis.call('UNLINK', KEYS[1])
end

for _, tag in ipairs(cjson.decode(ARGV[5])) do
    local removed = redis.call('GET', prefix .. 'm:' .. tag)
    if removed and tonumber(removed) > tonumber(ARGV[6]) then
        return 0
    end
end

redis.call('HSET', KEYS[1], 'data', ARGV[3], 'names', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
for _, name in ipairs(cjson.decode(ARGV[4])) do
    local index = prefix .. 'i:' .. name
    redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.0f', now))
    redis.call('ZADD', index, string.format('%.0f', now + life), key)
    if redis.call('PTTL', index) < life then
        redis.call('PEXPIRE', index, ARGV[7])
    end
    local over = redis.call('ZCARD', index) - tonumber(ARGV[8])
    if over > 0 then
        local popped = redis.call('ZPOPMIN', index, over)
        for i = 1, #popped, 2 do
            redis.call('UNLINK', prefix .. 'e:' .. popped[i])
        end
    end
end
return 1
