-- A visit: what is over goes, and a person of whom nothing is left. Answers whether the visit has to go on at once.

local raw = call('HGET', PERSON, 'p')
if not raw then
  call('ZREM', VISITS, USER)
  call('UNLINK', LOG, OUTCOMES, TOKENS, LRU, ENDS)
  return 0
end
local P = open(raw)
local most = 200
local more = later.expire_some(P, most) == most
for _ = 1, most do
  local oldest = call('LINDEX', OUTCOMES, 0)
  if not oldest then break end
  local since, operation = string.match(oldest, '^(%d+) (.*)$')
  if tonumber(since) >= now - SET[@outcomes_ttl] then break end
  call('LPOP', OUTCOMES)
  local kept = call('HGET', PERSON, 'o:' .. operation)
  if kept and open(kept)[@r_since] <= tonumber(since) then
    call('HDEL', PERSON, 'o:' .. operation, 'rd:' .. operation, 'rt:' .. operation)
  end
end
if P[@p_epoch] then later.trim_log_by_age(P) end
if now - P[@p_seen] > SET[@events_ttl] and P[@p_epoch] then
  P[@p_epoch] = false
  call('DEL', LOG)
end
if not P[@p_epoch] and call('ZCARD', ENDS) == 0 and call('LLEN', OUTCOMES) == 0 then
  call('ZREM', VISITS, USER)
  call('UNLINK', PERSON, LOG, OUTCOMES, TOKENS, LRU, ENDS)
  return 0
end
local next_end = call('ZRANGE', ENDS, 0, 0, 'WITHSCORES')[2]
local visit = now + 3600000
if next_end then visit = math.max(now + 1000, math.min(visit, tonumber(next_end) + 1)) end
if more then visit = now end
P[@p_visit] = visit
call('ZADD', VISITS, visit, USER)
call('HSET', PERSON, 'p', pack(P))
return more and 1 or 0
