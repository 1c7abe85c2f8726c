-- Forgets a loan whose units have arrived.
--
-- KEYS[1]  gate: hash of lent:<product>
-- KEYS[2]  lent: sorted set of the notes of loans that are not known to have arrived
-- ARGV[1]  the loan's note
-- ARGV[2]  product id
-- ARGV[3]  units
-- Returns  1 when it was forgotten, 0 when it had been already
--
-- Atomic because two that close a loan must not both count its units out. The note goes with the
-- gate that wrote it, so what it says is about this gate.

if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'lent:' .. ARGV[2], -ARGV[3])
return 1
