-- Turns the reservations of one or several orders into sales, after the ledger has booked them.
--
-- KEYS[1]  gate: hash of epoch, sequence, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled
-- KEYS[4…] order: hash of an order's state, epoch, user, line:<product>
-- ARGV[1]  how long an order's state is remembered, in milliseconds
-- ARGV[2…] of each order: its id, its user, the ledger's sequence number of the sale, the number of
--          its lines, and product id and quantity of each line
-- Returns  'sold'; 'cold' when there is no gate, and nothing was done
--
-- Atomic because it reads the state of a reservation and settles it by what it read.

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if not gate[1] then return 'cold' end

local function confirm(order, id, user, sequence, first, last)
  local known = redis.call('HMGET', order, 'state', 'epoch')
  if known[1] == 'sold' or known[1] == 'returned' then return end
  local is_held = known[1] == 'held' and known[2] == gate[1]
  -- Otherwise the reservation is gone; if the gate was built before this sale, the units go now.
  local is_new = not is_held and tonumber(sequence) > tonumber(gate[2])
  local units = 0
  for i = first, last, 2 do
    units = units + ARGV[i + 1]
    if is_held then
      redis.call('HINCRBY', KEYS[1], 'held:' .. ARGV[i], -ARGV[i + 1])
    elseif is_new then
      redis.call('HINCRBY', KEYS[1], 'left:' .. ARGV[i], -ARGV[i + 1])
    end
  end
  if is_new then redis.call('HINCRBY', KEYS[2], user, units) end
  redis.call('HSET', order, 'state', 'sold')
  redis.call('PEXPIRE', order, ARGV[1])
  redis.call('ZREM', KEYS[3], id)
end

local at = 2
for number = 4, #KEYS do
  local first = at + 4
  local last = first + 2 * ARGV[at + 3] - 1
  confirm(KEYS[number], ARGV[at], ARGV[at + 1], ARGV[at + 2], first, last)
  at = last + 1
end
assert(at == #ARGV + 1, 'as many orders as keys')
return 'sold'
