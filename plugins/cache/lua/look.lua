-- How far the logs of these persons are. KEYS: for each its person and its presence; ARGV[1] the settings, ARGV[2] the user of
-- each. This process is written down as one that wants to hear of them, and their drafts are kept alive: they are connected.

local call, pack, open = redis.call, cmsgpack.pack, cmsgpack.unpack
local SET, USERS = open(ARGV[1]), open(ARGV[2])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew]

local heads = {}
for place = 1, #USERS do
  local person, watching = KEYS[2 * place - 1], KEYS[2 * place]
  local ends = call('ZSCORE', watching, SET[@process])
  if not ends or tonumber(ends) < now + @PRESENCE / 2 then
    local answer = redis.pcall('ZADD', watching, now + @PRESENCE, SET[@process])
    if type(answer) ~= 'table' then
      call('ZREMRANGEBYSCORE', watching, '-inf', '(' .. now)
      call('PEXPIRE', watching, 2 * @PRESENCE)
    end
  end
  local raw = call('HGET', person, 'p')
  if raw then
    local P = open(raw)
    if now - P[@p_polled] > math.min(SET[@draft_ttl] / 8, 30000) then
      P[@p_polled], P[@p_seen] = now, now
      redis.pcall('HSET', person, 'p', pack(P))
    end
    heads[place] = { P[@p_epoch], P[@p_end], P[@p_tag] }
  else
    heads[place] = false
  end
end
return pack(heads)
