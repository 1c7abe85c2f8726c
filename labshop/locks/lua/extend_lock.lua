-- Prolongs a lock that is still the caller's; it never shortens one.
--
-- KEYS[1]  the lock: holds its owner's token
-- ARGV[1]  the caller's token
-- ARGV[2]  new time to live from now, in milliseconds
-- Returns  1 when it is the caller's, 0 when it had ended or is another's
--
-- Atomic because a lease that ended in between must not be prolonged for its next owner.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  -- GT: a shorter time whose reply is lost would leave its holder believing in the longer one.
  redis.call('PEXPIRE', KEYS[1], ARGV[2], 'GT')
  return 1
end
return 0
