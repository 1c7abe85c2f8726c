-- Included by other scripts: gives a free lock to the first waiter who is still there.
--
-- Whoever waits in another process is written down in a queue, and until when it counts as
-- alive: it comes again long before that. A dead waiter at the head would block all others.

local function now_us()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- The first living waiter: its token, how long it wants the lock, and how to wake it.
local function first_waiter(queue, waiters)
  while true do
    local token = redis.call('LINDEX', queue, 0)
    if not token then return nil end
    local told = redis.call('HGET', waiters, token)
    if told then
      local until_ms, ttl_ms, channel = string.match(told, '^(%S+) (%S+) (.+)$')
      if tonumber(until_ms) >= now_us() / 1000 then return token, tonumber(ttl_ms), channel end
      redis.call('HDEL', waiters, token)
    end
    redis.call('LPOP', queue)
  end
end

-- A grant stands for one second at most until its waiter confirms it: it may have died since.
local function hand_over(lock, queue, waiters)
  local token, ttl_ms, channel = first_waiter(queue, waiters)
  if token then
    redis.call('LPOP', queue)
    redis.call('HDEL', waiters, token)
    redis.call('SET', lock, token, 'PX', math.min(ttl_ms, 1000))
    redis.call('PUBLISH', channel, token)
  end
  return token
end
