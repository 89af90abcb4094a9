"""Contract classes, one per slot: a plugin is done when it passes the one of its slot. Needs pytest and pytest-asyncio."""
