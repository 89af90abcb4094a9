"""The tests' Directus: how it is installed, started, and talked to."""
