-- Prolongs a lock that is still the caller's.
--
-- KEYS[1]  the lock: holds its owner's token
-- ARGV[1]  the caller's token
-- ARGV[2]  new time to live from now, in milliseconds
-- Returns  1 when it was prolonged, 0 when it had ended or is another's
--
-- Atomic because a lease that ended in between must not be prolonged for its next owner.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
