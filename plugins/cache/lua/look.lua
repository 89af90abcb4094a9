-- How far the logs of these persons are. KEYS: the persons; ARGV[1] the settings. This process is written down as one that
-- wants to hear of them, and their drafts are kept alive: they are connected.

local call, pack, open = redis.call, cmsgpack.pack, cmsgpack.unpack
local SET = open(ARGV[1])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew]

local heads = {}
for place = 1, #KEYS do
  local raw = call('HGET', KEYS[place], 'p')
  local P = raw and open(raw)
  if P then
    local there, kept = false, {}
    for at = 1, #P[@p_watching], 2 do
      local process, ends = P[@p_watching][at], P[@p_watching][at + 1]
      if process == SET[@process] then
        there = ends > now + @PRESENCE / 2
      elseif ends > now then
        kept[#kept + 1], kept[#kept + 2] = process, ends
      end
    end
    if not there or now - P[@p_polled] > math.min(SET[@draft_ttl] / 8, 30000) then
      kept[#kept + 1], kept[#kept + 2] = SET[@process], now + @PRESENCE
      P[@p_watching], P[@p_polled], P[@p_seen] = kept, now, now
      redis.pcall('HSET', KEYS[place], 'p', pack(P))
    end
    heads[place] = { P[@p_epoch], P[@p_end], P[@p_tag] }
  else
    heads[place] = false
  end
end
return pack(heads)
