-- Fills a part of a gate that is being built, beside the place where it is looked for.
--
-- KEYS[1]  ticket: set by the builder before it read the ledger
-- KEYS[2]  staged: the hash or the sorted set that is filled; only its builder knows its name
-- ARGV[1]  the builder's ticket
-- ARGV[2]  how long the part is kept if nobody puts it in its place, in milliseconds
-- ARGV[3]  'HSET' or 'ZADD'
-- ARGV[4…] field and value of each entry, or score and member, in turns; a few thousand at most
-- Returns  1 when it was filled, 0 when the ticket is gone
--
-- Atomic because a builder may die at any moment, and must leave nothing that does not end by
-- itself; and because nothing may be filled in a memory that is another since the ticket was taken.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call(ARGV[3], KEYS[2], unpack(ARGV, 4, #ARGV))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
