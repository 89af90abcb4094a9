"""The Vault that tests talk to: built from its Go modules, or `vault` or `bao` on PATH, or the one that VAULT_ADDR names.

`server/` and `transit/` are Go programs of ours around the modules of HashiCorp Vault 1.21.4 (BUSL-1.1: for tests, nothing of it is
shipped). `fixtures.py` says how a test gets one.
"""
