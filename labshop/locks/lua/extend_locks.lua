-- Prolongs one or several locks, all of them or none; it never shortens one.
--
-- KEYS[1…]  the locks: each holds its owner's token
-- ARGV[1]   the caller's token
-- ARGV[2]   new time to live from now, in milliseconds
-- Returns   1 when all are the caller's, 0 when one had ended or is another's
--
-- Atomic because a lease that ended in between must not be prolonged for its next owner.

for number = 1, #KEYS do
  if redis.call('GET', KEYS[number]) ~= ARGV[1] then return 0 end
end
for number = 1, #KEYS do
  -- GT: a shorter time whose reply is lost would leave its holder believing in the longer one.
  redis.call('PEXPIRE', KEYS[number], ARGV[2], 'GT')
end
return 1
