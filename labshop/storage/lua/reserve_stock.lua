-- Sets an order's units aside, if the sale is open and stock and limit allow it.
--
-- KEYS[1]  gate: hash of epoch, run_id, sequence, opens_ms, closes_ms, limit, left:<product>,
--          held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  held: sorted set of the orders that are reserved and not settled, by time in ms
-- KEYS[4]  order: hash of this order's state (held, sold, released, returned), epoch, user, lines
-- KEYS[5]  revoked: sorted set of the tokens that were taken back, by the time of their end in ms
-- ARGV[1]  order id
-- ARGV[2]  user id
-- ARGV[3]  id of the buyer's token; empty for none
-- ARGV[4…] product id and quantity of each line, in turns
-- Returns  {'reserved'}, {'settled', state}, {'cold'}, {'closed'}, {'no_product', product},
--          {'sold_out', product, left, left and held together}, {'held', product},
--          {'limit', limit, bought}, {'signed_out'}
--
-- Atomic because whoever has seen stock for all lines must be the one who takes it.

local fields = {'epoch', 'opens_ms', 'closes_ms', 'limit'}
for i = 4, #ARGV, 2 do
  fields[#fields + 1] = 'left:' .. ARGV[i]
  fields[#fields + 1] = 'held:' .. ARGV[i]
end
local gate = redis.call('HMGET', KEYS[1], unpack(fields))
local epoch = gate[1]
if not epoch then return {'cold'} end
if ARGV[3] ~= '' and redis.call('ZSCORE', KEYS[5], ARGV[3]) then return {'signed_out'} end

-- A repeated request must not take units twice, nor one that was given up take any at all.
local known = redis.call('HMGET', KEYS[4], 'state', 'epoch')
if known[1] == 'held' and known[2] == epoch then return {'reserved'} end
if known[1] and known[1] ~= 'held' then return {'settled', known[1]} end

for i = 4, #ARGV, 2 do
  local product, wanted = ARGV[i], tonumber(ARGV[i + 1])
  local left, held = tonumber(gate[i + 1]), tonumber(gate[i + 2] or 0)
  if not left then return {'no_product', product} end
  if left < wanted then
    if left + held >= wanted then return {'held', product} end
    return {'sold_out', product, math.max(left, 0), left + held}
  end
end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now_ms < tonumber(gate[2]) or now_ms >= tonumber(gate[3]) then return {'closed'} end

local units = 0
for i = 5, #ARGV, 2 do units = units + ARGV[i] end
local bought = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0)
local limit = tonumber(gate[4])
if bought + units > limit then return {'limit', limit, bought} end

redis.call('HINCRBY', KEYS[2], ARGV[2], units)
if known[1] then redis.call('DEL', KEYS[4]) end
local order = {'state', 'held', 'epoch', epoch, 'user', ARGV[2]}
for i = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], 'left:' .. ARGV[i], -ARGV[i + 1])
  redis.call('HINCRBY', KEYS[1], 'held:' .. ARGV[i], ARGV[i + 1])
  order[#order + 1], order[#order + 2] = 'line:' .. ARGV[i], ARGV[i + 1]
end
redis.call('HSET', KEYS[4], unpack(order))
redis.call('ZADD', KEYS[3], now_ms, ARGV[1])
redis.call('PEXPIRE', KEYS[4], 86400000)
return {'reserved'}
