"""`encryption.vault` on a real Vault."""
