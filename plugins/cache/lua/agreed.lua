-- The number of shards that this cache was begun with. KEYS[1] where it stands, ARGV[1] the number for one that begins now.

redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
