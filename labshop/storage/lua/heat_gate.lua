-- Builds the gate from a snapshot of the ledger, if there is none.
--
-- KEYS[1]  gate: hash that is written
-- KEYS[2]  bought: hash of user to units, written
-- KEYS[3]  held: sorted set of reservations, emptied
-- KEYS[4]  ticket: set by the builder before it read the ledger
-- KEYS[5]  revoked: sorted set of the tokens that were taken back, written
-- ARGV[1]  the builder's ticket
-- ARGV[2]  sequence of the newest stock event in the snapshot
-- ARGV[3]  opening time, ms since 1970 · ARGV[4]  closing time · ARGV[5]  limit per user
-- ARGV[6]  id of this run of the server
-- ARGV[7]  number of products
-- ARGV[8]  number of users
-- ARGV[9…] product id and units left of each, in turns; then user id and units bought of each;
--          then time of its end and id of each token that was taken back
-- Returns  1 when it was built, 0 when there is a gate already, -1 when the ticket is gone
--
-- Atomic because a half-built gate would sell. The ticket proves that this memory is the
-- one that was empty *before* the snapshot was read: had it been lost once more in between,
-- sales made meanwhile would be missing from the snapshot and sold again.

if redis.call('HEXISTS', KEYS[1], 'epoch') == 1 then return 0 end
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return -1 end

redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'sequence', ARGV[2],
  'opens_ms', ARGV[3], 'closes_ms', ARGV[4], 'limit', ARGV[5], 'run_id', ARGV[6])
local users_from = 9 + 2 * ARGV[7]
local tokens_from = users_from + 2 * ARGV[8]
for i = 9, users_from - 1, 2 do
  redis.call('HSET', KEYS[1], 'left:' .. ARGV[i], ARGV[i + 1])
end
for i = users_from, tokens_from - 1, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
for i = tokens_from, #ARGV, 2 do
  redis.call('ZADD', KEYS[5], ARGV[i], ARGV[i + 1])
end
return 1
