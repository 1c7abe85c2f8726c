-- Frees what is still the caller's of one or several locks, and takes it out of their queues.
--
-- KEYS[1…]  three a lock: the lock, its queue, its waiters
-- ARGV[1]   the caller's token
-- ARGV[2…]  for each lock: 1 to hand it to the first waiter, 0 if the caller's process goes on
-- Returns   how many of the locks were the caller's
--
-- Atomic because between a GET that compares and a DEL, the lease can end and another can
-- begin: the DEL would then free somebody else's lock.

-- @include hand_over

assert(#KEYS == 3 * (#ARGV - 1), 'three keys and one answer a lock')

local owned = 0
for number = 1, #ARGV - 1 do
  local lock, queue, waiters = KEYS[3 * number - 2], KEYS[3 * number - 1], KEYS[3 * number]
  local holder, is_contended = redis.call('GET', lock), redis.call('EXISTS', waiters) == 1
  if holder == ARGV[1] then
    redis.call('DEL', lock)
    owned, holder = owned + 1, nil
  end
  if is_contended then
    if redis.call('HDEL', waiters, ARGV[1]) == 1 then redis.call('LREM', queue, 1, ARGV[1]) end
    if not holder and ARGV[number + 1] == '1' then hand_over(lock, queue, waiters) end
  end
end
return owned
