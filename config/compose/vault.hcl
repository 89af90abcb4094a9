# The Vault of config/compose.yaml. TLS ends at the edge of the containers' own network; give it a certificate elsewhere.

storage "file" {
  path = "/vault/file"
}

listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}

disable_mlock = true
api_addr      = "http://vault:8200"
