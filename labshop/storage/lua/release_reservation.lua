-- Gives back what an order had reserved, once.
--
-- KEYS[1]  gate: hash of epoch, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled
-- KEYS[4]  order: hash of this order's state, epoch, user, line:<product>
-- ARGV[1]  order id
-- ARGV[2]  how long the order's state is remembered, in milliseconds
-- Returns  the order's state from here on: 'released', 'sold' or 'returned'
--
-- Atomic because "was it still reserved?" and the giving back must be one step, or two
-- releases would both give. Units return by HINCRBY: writing back an old value would wipe
-- out what others bought in between.

local order = redis.call('HGETALL', KEYS[4])
local fields = {}
for i = 1, #order, 2 do fields[order[i]] = order[i + 1] end
if fields.state and fields.state ~= 'held' then return fields.state end

-- A gate that was built anew counts the units of older reservations as free already.
if fields.state and fields.epoch == redis.call('HGET', KEYS[1], 'epoch') then
  local units = 0
  for name, quantity in pairs(fields) do
    local product = string.match(name, '^line:(.+)$')
    if product then
      redis.call('HINCRBY', KEYS[1], 'left:' .. product, quantity)
      redis.call('HINCRBY', KEYS[1], 'held:' .. product, -quantity)
      units = units + quantity
    end
  end
  redis.call('HINCRBY', KEYS[2], fields.user, -units)
end

-- Remembered, so that a reservation that was delayed on its way is refused when it arrives.
redis.call('HSET', KEYS[4], 'state', 'released')
redis.call('PEXPIRE', KEYS[4], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return 'released'
