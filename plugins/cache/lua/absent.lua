-- These persons (KEYS) have no connection on this process (ARGV[1]) any more.

for _, person in ipairs(KEYS) do
  local raw = redis.call('HGET', person, 'p')
  if raw then
    local P, kept = cmsgpack.unpack(raw), {}
    for at = 1, #P[@p_watching], 2 do
      if P[@p_watching][at] ~= ARGV[1] then
        kept[#kept + 1], kept[#kept + 2] = P[@p_watching][at], P[@p_watching][at + 1]
      end
    end
    P[@p_watching] = kept
    redis.call('HSET', person, 'p', cmsgpack.pack(P))
  end
end
return 1
