-- Notes that an owner holds a lock, and waits for it no longer.
--
-- KEYS[1]  who waits
-- KEYS[2]  who holds: the owner by lock
-- KEYS[3]  who has to give way; not for this lock any more
-- ARGV[1]  the owner
-- ARGV[2]  the lock
-- Returns  1
--
-- Atomic because in between the owner would seem to wait for itself.

redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], 3600000)
return 1
