-- A fill token (ARGV[5]) for these chats (ARGV[4]), valid 60 s, set before the store is read. Twin of memory_tokens.py.

local P = read_person(call('HGET', PERSON, 'p'))
local ids, token = open(ARGV[4]), ARGV[5]
for _, chat in ipairs(ids) do
  local C = later.read_chat(chat)
  if C and later.over(P, chat, C) then later.let_go(P, chat, C) end -- before the token, which its end would spoil
end
-- Too many tokens are out: all of them are spoilt, whose fills are then simply not installed.
if call('HLEN', TOKENS) > @TOKENS then call('DEL', TOKENS) end
local number = math.max(call('HINCRBY', TOKENS, 'n', 1), now * 1000)
call('HSET', TOKENS, 'n', string.format('%.0f', number))
local ends = now + 60000
for _, chat in ipairs(ids) do
  call('HSET', TOKENS, 't:' .. token .. ':' .. chat, string.format('%.0f:%.0f', number, ends))
end
call('PEXPIRE', TOKENS, 61000)
P[@p_tokens] = ends
write_person(P)
return 1
