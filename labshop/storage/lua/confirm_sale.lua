-- Turns an order's reservation into a sale, after the ledger has booked it.
--
-- KEYS[1]  gate: hash of epoch, sequence, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled
-- KEYS[4]  order: hash of this order's state, epoch, user, line:<product>
-- ARGV[1]  order id
-- ARGV[2]  user id
-- ARGV[3]  how long the order's state is remembered, in milliseconds
-- ARGV[4]  the ledger's sequence number of this sale
-- ARGV[5…] product id and quantity of each line, in turns
-- Returns  'sold'; 'cold' when there is no gate, and nothing was done
--
-- Atomic because it reads the state of the reservation and settles it by what it read.

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if not gate[1] then return 'cold' end
local known = redis.call('HMGET', KEYS[4], 'state', 'epoch')
if known[1] == 'sold' or known[1] == 'returned' then return 'sold' end

local units = 0
for i = 5, #ARGV, 2 do
  local product, quantity = ARGV[i], ARGV[i + 1]
  units = units + quantity
  if known[1] == 'held' and known[2] == gate[1] then
    redis.call('HINCRBY', KEYS[1], 'held:' .. product, -quantity)
  elseif tonumber(ARGV[4]) > tonumber(gate[2]) then
    -- The reservation is gone, and the gate was built before this sale: take the units now.
    redis.call('HINCRBY', KEYS[1], 'left:' .. product, -quantity)
  end
end
if not (known[1] == 'held' and known[2] == gate[1]) and tonumber(ARGV[4]) > tonumber(gate[2]) then
  redis.call('HINCRBY', KEYS[2], ARGV[2], units)
end

redis.call('HSET', KEYS[4], 'state', 'sold')
redis.call('PEXPIRE', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
return 'sold'
