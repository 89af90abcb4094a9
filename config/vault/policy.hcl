# All that the sidecar needs of Vault, and nothing else: its own folder of keys, and its own token.
#
#   vault policy write sidecar config/vault/policy.hcl
#   vault write auth/approle/role/sidecar token_policies=sidecar token_ttl=1h token_max_ttl=24h
#
# `secret` is the option `mount`, `sidecar` behind it the option `path`.

# Keys: made, read, given a new version. None is ever deleted through here.
path "secret/data/sidecar/*" {
  capabilities = ["create", "read", "update"]
}

# The mark of a destroyed key is written here; lists; what is left of an erased person is removed.
path "secret/metadata/sidecar/*" {
  capabilities = ["create", "read", "update", "list", "delete"]
}

# All versions of a deleted chat's key.
path "secret/destroy/sidecar/*" {
  capabilities = ["update"]
}

# Whether the engine deletes by itself (delete_version_after), for the start and for `sidecar doctor`.
path "secret/config" {
  capabilities = ["read"]
}

# Only with `mode: transit`. Not `create` for encrypt: a key that is missing must not be made by chance.
path "transit/encrypt/sidecar" {
  capabilities = ["update"]
}
path "transit/decrypt/sidecar" {
  capabilities = ["update"]
}
path "transit/rewrap/sidecar" {
  capabilities = ["update"]
}
path "transit/keys/sidecar" {
  capabilities = ["read"]
}

# Its own token, which it renews and gives back. The policy `default` allows the same; a role can then do without it.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# What its own policies allow, for the start and for `sidecar doctor`.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
