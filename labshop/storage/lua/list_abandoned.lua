-- Lists reservations that have not been settled for a while, oldest first.
--
-- KEYS[1]  held: sorted set of the orders that are reserved and not settled, by time in ms
-- ARGV[1]  least age, in milliseconds
-- ARGV[2]  how many at most
-- Returns  order ids
--
-- Atomic because the age is measured by the clock that stamped it: Redis' own.

local clock = redis.call('TIME')
local before_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) - ARGV[1]
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before_ms, 'LIMIT', 0, ARGV[2])
