"""`persistence.directus` with whole sidecars on a real Directus: what is written and read, what others change, and trouble."""
