-- Puts the units of a cancelled order back on sale, once.
--
-- KEYS[1]  gate: hash of epoch, sequence, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled
-- KEYS[4]  order: hash of this order's state, epoch, user, line:<product>
-- ARGV[1]  order id
-- ARGV[2]  user id
-- ARGV[3]  how long the order's state is remembered, in milliseconds
-- ARGV[4]  the ledger's sequence number of this cancellation
-- ARGV[5]  the ledger's sequence number of the sale that is cancelled
-- ARGV[6…] product id and quantity of each line, in turns
-- Returns  'returned'; 'cold' when there is no gate, and nothing was done
-- Tells    labshop:restock:<gate> of each product that is on sale again
--
-- Atomic because two cancellations must not both give the units back.

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if not gate[1] then return 'cold' end
local known = redis.call('HMGET', KEYS[4], 'state', 'epoch')
if known[1] == 'returned' then return 'returned' end

local held_here = known[1] == 'held' and known[2] == gate[1]
local built_at = tonumber(gate[2])

-- A gate that was built after the cancellation has these units on sale already. One that was
-- built before the sale, and was never told of it, has not taken them out yet.
local includes_it = tonumber(ARGV[4]) <= built_at
local never_took = tonumber(ARGV[5]) > built_at and not held_here
  and (known[1] == 'held' or known[1] == 'released')

local units = 0
for i = 6, #ARGV, 2 do
  local product, quantity = ARGV[i], ARGV[i + 1]
  units = units + quantity
  if held_here then redis.call('HINCRBY', KEYS[1], 'held:' .. product, -quantity) end
  if not includes_it and not never_took then
    redis.call('HINCRBY', KEYS[1], 'left:' .. product, quantity)
    redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1], product)
  end
end
if not includes_it and not never_took then redis.call('HINCRBY', KEYS[2], ARGV[2], -units) end

redis.call('HSET', KEYS[4], 'state', 'returned')
redis.call('PEXPIRE', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
return 'returned'
