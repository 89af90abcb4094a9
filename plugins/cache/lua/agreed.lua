-- What the first process wrote down for all that come after it. KEYS[1] where it stands, ARGV[1] what to write if nothing stands there.

redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
