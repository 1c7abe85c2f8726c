-- One node's vote for a lock of several nodes: taken if it is free or already the caller's.
--
-- KEYS[1]  the lock
-- KEYS[2]  who is to be told when it becomes free
-- ARGV[1]  the word of this vote: the caller's token, and the number of its try
-- ARGV[2]  time to live, in milliseconds
-- ARGV[3]  the caller's token
-- ARGV[4]  the channel by which to wake the caller; empty for one who does not wait
-- Returns  {1, 0} for yes; {0, milliseconds until the present lease ends} for no
--
-- Atomic because whoever is refused must be noted before the lock can be freed.

if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1, 0} end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, 0}
end
local ends_in_ms = redis.call('PTTL', KEYS[1])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], 1000)
end
return {0, ends_in_ms}
