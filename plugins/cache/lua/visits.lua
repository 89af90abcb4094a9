-- Persons of a shard whom somebody has to look after by now. KEYS[1] the visits; ARGV[1] the settings, ARGV[2] how many.

local SET = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew]
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
