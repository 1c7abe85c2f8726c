-- Takes a vote back, and wakes everybody who was refused meanwhile.
--
-- KEYS[1]  the lock
-- KEYS[2]  who is to be told: a channel by token
-- ARGV[1]  the word of this vote
-- ARGV[2]  the caller's token
-- ARGV[3]  1 if the caller goes on waiting, and is to be told as well
-- Returns  1 when it was freed, 0 when it had ended or is another's
--
-- Atomic because between a GET that compares and a DEL, the lease can end and another can
-- begin: the DEL would then free somebody else's lock.

if ARGV[3] ~= '1' then redis.call('HDEL', KEYS[2], ARGV[2]) end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local refused = redis.call('HGETALL', KEYS[2])
for index = 1, #refused, 2 do
  if refused[index] ~= ARGV[2] then redis.call('PUBLISH', refused[index + 1], refused[index]) end
end
redis.call('DEL', KEYS[2])
return 1
