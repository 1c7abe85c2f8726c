-- Takes the ticket to build the gate: it is free, or is an old one of this builder's own.
--
-- KEYS[1]  ticket: names who reads the ledger for a new gate
-- ARGV[1]  the builder
-- ARGV[2]  the number of this attempt, new each time
-- ARGV[3]  '1' when no other attempt of this builder is under way, so that a ticket of its own is old
-- ARGV[4]  how long it is kept, in milliseconds
-- Returns  1 when it was taken, 0 when somebody has it
--
-- Atomic because between seeing whose it is and setting it, another could take it. An old ticket is
-- found in the memory of a server that lost its power: it was handed in since, and that is forgotten.

local taken = redis.call('GET', KEYS[1])
if taken then
  local is_own = string.sub(taken, 1, #ARGV[1]) == ARGV[1]
  if not (is_own and ARGV[3] == '1') then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[4])
return 1
