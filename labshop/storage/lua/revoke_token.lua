-- Notes that a token was taken back, and forgets those that have ended by themselves.
--
-- KEYS[1]  revoked: sorted set of tokens, by the time of their end in ms
-- ARGV[1]  id of the token
-- ARGV[2]  when it ends, in ms since 1970
-- Returns  1
--
-- Atomic because it saves a round trip; each step could stand alone.

local clock = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', clock[1] * 1000)
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
