-- Puts units that another shard has lent on sale here, once.
--
-- KEYS[1]  gate: hash of epoch, left:<product>, arrived:<product>
-- KEYS[2]  loan: set when its units have arrived
-- ARGV[1]  epoch of the gate that lent them
-- ARGV[2]  product id
-- ARGV[3]  units
-- ARGV[4]  how long the loan is remembered, in milliseconds
-- Returns  1 when they are here, 0 when this gate is of another epoch, and nothing was done
-- Tells    labshop:restock:<gate> of the product
-- Tells    labshop:restock:<gate> of the product that is on sale here again
--
-- Atomic because whoever finishes the loan of a process that died may meet that process. A gate of
-- another epoch has its own part of the stock already: what an older one lent is in it.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
if redis.call('SET', KEYS[2], 'arrived', 'NX', 'PX', ARGV[4]) then
  redis.call('HINCRBY', KEYS[1], 'left:' .. ARGV[2], ARGV[3])
  -- Whoever counts all shards one after the other sees by this that units moved meanwhile.
  redis.call('HINCRBY', KEYS[1], 'arrived:' .. ARGV[2], 1)
  redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1], ARGV[2])
end
return 1
