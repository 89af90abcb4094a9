-- These persons (KEYS: their presence) have no connection on this process any more.

for _, watching in ipairs(KEYS) do redis.call('ZREM', watching, ARGV[1]) end
return 1
