-- Frees a lock whoever holds it, and hands it to the first waiter.
--
-- KEYS[1]  the lock
-- KEYS[2]  its queue
-- KEYS[3]  its waiters
-- Returns  the token of who held it, or an empty string
--
-- Atomic because the lock must not be free in between: a newcomer would overtake who waits.

-- @include hand_over

local holder = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
hand_over(KEYS[1], KEYS[2], KEYS[3])
return holder or ''
