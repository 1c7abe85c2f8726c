-- Takes a vote back, and wakes everybody who was refused meanwhile.
--
-- KEYS[1]  the lock
-- KEYS[2]  who is to be told: a channel by token
-- ARGV[1]  the caller's token
-- Returns  1 when it was freed, 0 when it had ended or is another's
--
-- Atomic because between a GET that compares and a DEL, the lease can end and another can
-- begin: the DEL would then free somebody else's lock.

redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local refused = redis.call('HGETALL', KEYS[2])
for index = 1, #refused, 2 do
  redis.call('PUBLISH', refused[index + 1], refused[index])
end
redis.call('DEL', KEYS[2])
return 1
