-- Adds to the gate's numbers what they were found to lack, if it is the gate that was looked at.
--
-- KEYS[1]  gate: hash of epoch, settled, watched_ms, left:<product>, held:<product>
-- KEYS[2]  bought: hash of user to units bought in this sale
-- KEYS[3]  leader: the newest fencing token under which anybody repaired; it outlives the gate
-- ARGV[1]  epoch of the gate that was looked at
-- ARGV[2]  the leader's fencing token
-- ARGV[3]  up to which event of the ledger all orders are settled here
-- ARGV[4]  '1' when all of the ledger's news have been accounted for, '0' when some are left
-- ARGV[5]  number of fields of the gate that are repaired
-- ARGV[6…] field and delta of each, then user and delta of each
-- Returns  'repaired'; 'stale' when a newer leader has been here, 'rebuilt' when it is another gate;
--          no number was changed then
-- Tells    labshop:restock:<gate> of each product of which there is more than was thought
-- Tells    labshop:restock:<gate> that all products may be on sale again, if any was repaired
--
-- Atomic because between the look at epoch and token and the adding, another leader could repair
-- the same. Units are added, never set: others buy in between. Whoever is told by nobody that its
-- lease is over, because it stood still, is told by the token.

local newest = tonumber(redis.call('GET', KEYS[3]) or 0)
if tonumber(ARGV[2]) < newest then return 'stale' end
redis.call('SET', KEYS[3], ARGV[2])

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'settled')
if gate[1] ~= ARGV[1] then return 'rebuilt' end

local users_from = 6 + 2 * ARGV[5]
for i = 6, users_from - 1, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  if tonumber(ARGV[i + 1]) > 0 then
    redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1], string.match(ARGV[i], '%d+$'))
  end
end
if users_from > 6 then redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1], 'all') end
for i = users_from, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end

if ARGV[4] == '1' then
  local clock = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'watched_ms', clock[1] * 1000 + math.floor(clock[2] / 1000))
end
if tonumber(ARGV[3]) > tonumber(gate[2] or 0) then
  redis.call('HSET', KEYS[1], 'settled', ARGV[3])
end
return 'repaired'
