-- Notes that an owner waits for a lock, and looks whether that closes a cycle.
--
-- KEYS[1]  who waits: by owner, "until lock born channel"
-- KEYS[2]  who holds: the owner by lock
-- KEYS[3]  who has to give way: by owner, the cycle
-- ARGV[1]  the owner
-- ARGV[2]  the lock
-- ARGV[3]  when the owner was born, in microseconds of the server; 0 for now
-- ARGV[4]  for how long this note is believed, in milliseconds
-- ARGV[5]  the channel by which to wake the owner
-- Returns  {when the owner was born, the cycle if it has to give way, otherwise ""}; a cycle is
--          JSON, [[owner, lock], …]: names may contain whatever they like
--
-- Atomic because the cycle must be seen as a whole: each owner waits for one lock, each lock has
-- one holder, so whoever follows the arrows comes back, or to an end.

local owner, lock = ARGV[1], ARGV[2]
local now = redis.call('TIME')
local now_us = now[1] * 1000000 + now[2]
local born = tonumber(ARGV[3])
if born == 0 then born = now_us end

local verdict = redis.call('HGET', KEYS[3], owner)
redis.call('HDEL', KEYS[3], owner)
if verdict then
  redis.call('HDEL', KEYS[1], owner)
  return {born, verdict}
end

redis.call('HSET', KEYS[1], owner,
  string.format('%.0f %.0f %s %s', now_us + ARGV[4] * 1000, born, ARGV[5], lock))

redis.call('PEXPIRE', KEYS[1], 3600000)

local cycle = {{owner, lock}}
local youngest, youngest_born, channel = owner, born, ARGV[5]
local holder = redis.call('HGET', KEYS[2], lock)
while holder and holder ~= owner and #cycle < 1000 do
  local told = redis.call('HGET', KEYS[1], holder)
  if not told then return {born, ''} end
  local until_us, its_born, its_channel, its_lock = string.match(told, '^(%S+) (%S+) (%S+) (.+)$')
  if tonumber(until_us) < now_us then return {born, ''} end
  if tonumber(its_born) > youngest_born then
    youngest, youngest_born, channel = holder, tonumber(its_born), its_channel
  end
  table.insert(cycle, {holder, its_lock})
  holder = redis.call('HGET', KEYS[2], its_lock)
end
if holder ~= owner then return {born, ''} end

local told = cjson.encode(cycle)
redis.call('HDEL', KEYS[1], youngest)
if youngest == owner then return {born, told} end
redis.call('HSET', KEYS[3], youngest, told)
redis.call('PEXPIRE', KEYS[3], 60000)
redis.call('PUBLISH', channel, youngest)
return {born, ''}
