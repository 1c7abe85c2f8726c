-- Takes a lock if it is free or already the caller's, and counts its fencing token.
--
-- KEYS[1]  the lock: holds its owner's token, with a time to live
-- KEYS[2]  the newest fencing token of this lock
-- ARGV[1]  the caller's token
-- ARGV[2]  time to live, in milliseconds
-- Returns  {fence, 0} when taken; {0, milliseconds until the present lease ends} when not,
--          where -1 stands for a key without an end
--
-- Atomic because the token must be counted by the same step that takes the lock: of two
-- holders, the later must have the larger number.

if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
  and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {0, redis.call('PTTL', KEYS[1])}
end

-- One more than the last, and at least the server's time in microseconds: a server that
-- lost its memory goes on above every number that it gave out before.
local now = redis.call('TIME')
local fence = math.max(
  tonumber(redis.call('GET', KEYS[2]) or 0) + 1,
  now[1] * 1000000 + now[2])
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'EX', 86400)
return {fence, 0}
