-- The outbox of the person's shard, for scripts of a person that append or remove entries.

local WAITING, PARKED, SHARD, RELEASED = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
