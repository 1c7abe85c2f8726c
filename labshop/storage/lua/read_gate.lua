-- Reads what the gate says of some products, users and orders, and all that is reserved.
--
-- KEYS[1]  gate: hash of epoch, sequence, settled, watched_ms, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled
-- ARGV[1]  how the key of an order begins; its id follows. They share the gate's hash tag
-- ARGV[2]  how many reservations there may be
-- ARGV[3]  number of products · ARGV[4]  number of users
-- ARGV[5…] the products, then the users, then the orders
-- Returns  {} when there is no gate, or too much is reserved to be read at once; otherwise {epoch,
--          settled, milliseconds since it was looked at (-1 for never), left and held of each
--          product, bought of each user, id, user, product and units of each reserved line, state
--          of each order}
--
-- Atomic because units move from one of these numbers to another: read one by one, a reservation
-- would be seen in both places, or in none.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[2]) then return {} end

local mark = redis.call('HMGET', KEYS[1], 'settled', 'watched_ms', 'sequence')
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local users_from = 5 + ARGV[3]
local orders_from = users_from + ARGV[4]

local stock, bought, reserved, states = {}, {}, {}, {}
for i = 5, users_from - 1 do
  stock[#stock + 1] = tonumber(redis.call('HGET', KEYS[1], 'left:' .. ARGV[i]) or 0)
  stock[#stock + 1] = tonumber(redis.call('HGET', KEYS[1], 'held:' .. ARGV[i]) or 0)
end
for i = users_from, orders_from - 1 do
  bought[#bought + 1] = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or 0)
end
for i = orders_from, #ARGV do
  states[#states + 1] = redis.call('HGET', ARGV[1] .. ARGV[i], 'state') or ''
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local fields = redis.call('HGETALL', ARGV[1] .. id)
  local order = {}
  for i = 1, #fields, 2 do order[fields[i]] = fields[i + 1] end
  for name, units in pairs(order) do
    local product = string.match(name, '^line:(.+)$')
    if product then
      reserved[#reserved + 1] = {id, tonumber(order.user or 0), tonumber(product), tonumber(units)}
    end
  end
end
return {epoch, tonumber(mark[1] or mark[3]), mark[2] and now_ms - mark[2] or -1,
  stock, bought, reserved, states}
