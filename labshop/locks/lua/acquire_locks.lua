-- Takes one or several locks, in order, each if it is free or already the caller's.
--
-- KEYS[1…]  four a lock: the lock, its newest fencing token, its queue, its waiters
-- ARGV[1]   the caller's token
-- ARGV[2]   time to live, in milliseconds
-- ARGV[3]   the channel by which to wake the caller; empty for one who does not wait
-- ARGV[4]   for how long the caller counts as a living waiter, in milliseconds
-- ARGV[5]   1 to go ahead of waiting processes: it follows its own process' release, or barges
-- Returns   {fence, 0, 0} when all are taken; otherwise {0, milliseconds until the lease in the
--           way ends (-1 for a key without an end), the number of the lock in the way}
--
-- Atomic because the fencing token must be counted by the step that takes the locks, and because
-- between a look at the queue and the SET another process could get in.

-- @include hand_over

local token, ttl_ms, channel, jumps = ARGV[1], ARGV[2], ARGV[3], ARGV[5] == '1'

local function take(lock, queue, waiters)
  local is_contended = redis.call('EXISTS', waiters) == 1
  if is_contended and not jumps and redis.call('EXISTS', lock) == 0 then
    local first = first_waiter(queue, waiters)
    if first and first ~= token then hand_over(lock, queue, waiters) end
  end
  if not redis.call('SET', lock, token, 'NX', 'PX', ttl_ms) then
    if redis.call('GET', lock) ~= token then return false end
    redis.call('PEXPIRE', lock, ttl_ms)
  end
  if is_contended then
    redis.call('LREM', queue, 1, token)
    redis.call('HDEL', waiters, token)
  end
  return true
end

local function wait(queue, waiters)
  if channel == '' then return end
  if redis.call('HEXISTS', waiters, token) == 0 then redis.call('RPUSH', queue, token) end
  redis.call('HSET', waiters, token,
    string.format('%.0f %s %s', now_us() / 1000 + ARGV[4], ttl_ms, channel))
  redis.call('PEXPIRE', queue, 60000)
  redis.call('PEXPIRE', waiters, 60000)
end

for first = 1, #KEYS, 4 do
  if not take(KEYS[first], KEYS[first + 2], KEYS[first + 3]) then
    wait(KEYS[first + 2], KEYS[first + 3])
    return {0, redis.call('PTTL', KEYS[first]), (first + 3) / 4}
  end
end

-- One more than the last, and at least the server's time in microseconds: a server that
-- lost its memory goes on above every number that it gave out before.
local fence = now_us()
for first = 1, #KEYS, 4 do
  fence = math.max(fence, tonumber(redis.call('GET', KEYS[first + 1]) or 0) + 1)
end
for first = 1, #KEYS, 4 do
  redis.call('SET', KEYS[first + 1], string.format('%.0f', fence), 'EX', 86400)
end
return {fence, 0, 0}
