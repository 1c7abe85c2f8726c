-- Notes that an owner neither holds a lock nor waits for it any longer.
--
-- KEYS[1]  who waits
-- KEYS[2]  who holds: the owner by lock
-- KEYS[3]  who has to give way
-- ARGV[1]  the owner
-- ARGV[2]  the lock; empty for one who only waited
-- Returns  1 if it was noted as the holder, otherwise 0
--
-- Atomic because the lock may be another owner's by now, whose note must stay.

redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if redis.call('HGET', KEYS[2], ARGV[2]) ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[2], ARGV[2])
