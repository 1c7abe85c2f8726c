-- Frees a lock that is still the caller's.
--
-- KEYS[1]  the lock: holds its owner's token
-- ARGV[1]  the caller's token
-- Returns  1 when it was freed, 0 when it had ended or is another's
--
-- Atomic because between a GET that compares and a DEL, the lease can end and another can
-- begin: the DEL would then free somebody else's lock.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
