-- Takes units of a product out of this shard for another one, and notes that they are on their way.
--
-- KEYS[1]  gate: hash of epoch, left:<product>, lent:<product>
-- KEYS[2]  lent: sorted set of the notes of loans that are not known to have arrived, by time in ms
-- KEYS[3]  loan: the note of this one
-- ARGV[1]  id of the loan
-- ARGV[2]  epoch of the gate that borrows
-- ARGV[3]  number of the shard that borrows
-- ARGV[4]  product id
-- ARGV[5]  units that it needs
-- ARGV[6]  how long the loan is remembered, in milliseconds
-- Returns  the note, which is loan, epoch, borrower, product and units with blanks between them;
--          '' when nothing is left here, 'cold' when there is no gate of that epoch
--
-- Atomic because units that are taken out here, and not in yet there, would be in no shard if
-- nothing told of them. Half of what is left goes, or what is needed if that is more, so that a
-- crowd of borrowers comes a few times and not once for each unit.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return 'cold' end
local known = redis.call('GET', KEYS[3])
if known then return known end

local left = tonumber(redis.call('HGET', KEYS[1], 'left:' .. ARGV[4]) or 0)
local units = math.min(left, math.max(tonumber(ARGV[5]), math.floor(left / 2)))
if units <= 0 then return '' end

local note = table.concat({ARGV[1], ARGV[2], ARGV[3], ARGV[4], units}, ' ')
local clock = redis.call('TIME')
redis.call('HINCRBY', KEYS[1], 'left:' .. ARGV[4], -units)
redis.call('HINCRBY', KEYS[1], 'lent:' .. ARGV[4], units)
redis.call('ZADD', KEYS[2], clock[1] * 1000 + math.floor(clock[2] / 1000), note)
redis.call('SET', KEYS[3], note, 'PX', ARGV[6])
return note
