-- The log after a cursor (ARGV[4]: epoch, offset, tag, or nothing for the head alone), at most ARGV[5] entries.
-- Answers: epoch, end, tag of the end, why the cursor is lost (or false), the entries.

local a, most = open(ARGV[4]), tonumber(ARGV[5])
local P, begun = read_person(call('HGET', PERSON, 'p'))
local base = P[@p_base]
later.trim_log_by_age(P)
later.trim_log(P)
local trimmed = P[@p_base] ~= base -- which has to be written down: the log does not say where it begins

local function written(lost)
  -- Asked on behalf of a device that is connected, which keeps the drafts of its owner alive.
  if begun or trimmed or now - P[@p_polled] > math.min(SET[@draft_ttl] / 8, 30000) or now - P[@p_seen] > 60000 then
    P[@p_polled] = now
    P[@p_seen] = now
    if P[@p_visit] == 0 then
      P[@p_visit] = now + math.min(SET[@ttl], SET[@draft_ttl]) + 1000
      later.keep_reading('ZADD', VISITS, P[@p_visit], USER)
    end
    if begun then call('HSET', PERSON, 'p', pack(P)) else later.keep_reading('HSET', PERSON, 'p', pack(P)) end
  end
  return { P[@p_epoch], P[@p_end], P[@p_tag], lost or false, {} }
end

if not a[1] then return written() end
local epoch, offset, tag = a[1], a[2], a[3]
if epoch ~= P[@p_epoch] then
  -- An epoch as late as ours that we never began: the cache went back and began another one meanwhile.
  if string.sub(epoch, 1, 12) >= string.sub(P[@p_epoch], 1, 12) then
    local ahead = tonumber(string.sub(epoch, 1, 12), 16) - now
    later.begin_epoch(P, ahead < @SKEW and epoch or nil)
    begun = true
  end
  return written('epoch_changed')
end
if offset < P[@p_base] then return written('cursor_expired') end
local there
if offset == P[@p_base] then
  there = P[@p_base_tag]
elseif offset <= P[@p_end] then
  local found = call('LINDEX', LOG, offset - P[@p_end] - 1)
  there = found and open(found)[@i_tag]
end
if there ~= tag then
  later.begin_epoch(P)
  begun = true
  return written('epoch_changed')
end
local answer = written()
if offset < P[@p_end] and most > 0 then
  -- From the end, where most readers are near.
  local from = offset - P[@p_end]
  answer[5] = call('LRANGE', LOG, from, math.min(from + most - 1, -1))
end
return answer
