-- Puts a gate that was filled from a snapshot of the ledger in its place, if there is none.
--
-- KEYS[1]  gate: hash that is written
-- KEYS[2]  bought: hash of user to units, written
-- KEYS[3]  held: sorted set of reservations, emptied
-- KEYS[4]  ticket: set by the builder before it read the ledger
-- KEYS[5]  revoked: sorted set of the tokens that were taken back, added to
-- KEYS[6]  staged gate: hash of left:<product> · KEYS[7]  staged bought · KEYS[8]  staged revoked
-- ARGV[1]  the builder's ticket
-- ARGV[2]  sequence of the newest stock event in the snapshot
-- ARGV[3]  opening time, ms since 1970 · ARGV[4]  closing time · ARGV[5]  limit per user
-- ARGV[6]  id of this run of the server
-- ARGV[7]  number of products · ARGV[8]  number of users · ARGV[9]  number of tokens
-- Returns  1 when it was built, 0 when there is a gate already, -1 when the ticket is gone, or some
--          of what was filled
-- Tells    labshop:restock:<gate> that all products may be on sale again
--
-- Atomic because a half-built gate would sell. The ticket proves that this memory is the
-- one that was empty *before* the snapshot was read: had it been lost once more in between,
-- sales made meanwhile would be missing from the snapshot and sold again. The numbers prove that it
-- is whole: a server that lost its power may come back with the ticket, and without what came last.

if redis.call('HEXISTS', KEYS[1], 'epoch') == 1 then return 0 end
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return -1 end
local is_whole = redis.call('HLEN', KEYS[6]) == tonumber(ARGV[7])
  and redis.call('HLEN', KEYS[7]) == tonumber(ARGV[8])
  and redis.call('ZCARD', KEYS[8]) == tonumber(ARGV[9])
if not is_whole then return -1 end

local function put(staged, place)
  if redis.call('EXISTS', staged) == 0 then return end
  redis.call('RENAME', staged, place)
  redis.call('PERSIST', place)
end

-- UNLINK frees them aside: to free a million buyers here would keep everybody waiting.
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
put(KEYS[6], KEYS[1])
put(KEYS[7], KEYS[2])
-- Others may have been taken back since the snapshot.
redis.call('ZUNIONSTORE', KEYS[5], 2, KEYS[5], KEYS[8], 'AGGREGATE', 'MAX')
redis.call('UNLINK', KEYS[8])
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'sequence', ARGV[2],
  'opens_ms', ARGV[3], 'closes_ms', ARGV[4], 'limit', ARGV[5], 'run_id', ARGV[6],
  'watched_ms', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('PUBLISH', 'labshop:restock:' .. KEYS[1], 'all')
return 1
