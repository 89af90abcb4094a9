-- Everything that was edited by anybody of this shard is due now.

if call('EXISTS', DUE) == 1 then call('ZUNIONSTORE', DUE, 1, DUE, 'WEIGHTS', 0) end
return 1
