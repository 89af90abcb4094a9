"""The measurements of the sidecar beside a bare aiohttp loop that does the same parse, seal, open and sends: `python -m bench`."""
