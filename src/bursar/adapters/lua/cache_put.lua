-- KEYS: the entry. ARGV: prefix, the entry's key, data, names (JSON), tags (JSON), when it was asked for (us), life (ms),
-- the most members of an index. Returns 1 where it is kept: what was asked for before what is there is not, and what is past its time
-- only takes away what it would have replaced.
-- An index is a sorted set: members are keys of entries, scores the times (ms) at which they are gone.
local prefix, key, life = ARGV[1], ARGV[2], tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local before = redis.call('HMGET', KEYS[1], 'names', 'stored')
if before[2] and tonumber(before[2]) > tonumber(ARGV[6]) then
    return 0
end
if before[1] then
    for _, name in ipairs(cjson.decode(before[1])) do
        redis.call('ZREM', prefix .. 'i:' .. name, key)
    end
    redis.call('UNLINK', KEYS[1])
end

if life <= 0 then
    return 0
end
for _, tag in ipairs(cjson.decode(ARGV[5])) do
    local removed = redis.call('GET', prefix .. 'm:' .. tag)
    if removed and tonumber(removed) > tonumber(ARGV[6]) then
        return 0
    end
end

redis.call('HSET', KEYS[1], 'data', ARGV[3], 'names', ARGV[4], 'stored', ARGV[6])
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
