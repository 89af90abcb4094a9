-- What this person edited is due now.

for _, chat in ipairs(call('ZRANGE', ENDS, 0, -1)) do
  call('ZADD', DUE, 'XX', 0, USER .. ':' .. chat)
end
return 1
