"""The parts opened from a configuration, for the server and for operators' commands alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.config import Config
from sidecar.errors import StartRefused
from sidecar.metrics import Metrics
from sidecar.parts import Parts, References
from sidecar.plugins import Plugins
from sidecar.plugins_loading import load
from sidecar.settings import Settings
from sidecar.slots.keyed_cipher import KeyedCipher


def settings_of(config: Config) -> Settings:
    """What the use cases need of the configuration."""
    return Settings(
        pepper=config.pepper,
        documents=config.document_limits(),
        message_bytes=config.messages.max_bytes,
        title_length=config.titles.max_length,
        cache=config.cache_limits(),
        sync_recent=config.sync.recent,
        sync_total=config.sync.total,
        sync_frame=config.sync.max_frame,
        devices=config.devices.max_per_user,
        references_kept=config.chats.keys_cached,
    )


def make_data_dir(config: Config) -> None:
    """Makes `data_dir` for its owner alone, unless it is there. Raises `StartRefused`."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StartRefused(
            "data_dir", f"cannot make {config.data_dir} ({why}); change data_dir or make the folder"
        ) from None


@asynccontextmanager
async def open_parts(config: Config, metrics: Metrics) -> AsyncIterator[tuple[Plugins, Parts]]:
    """The plugins entered and the slots filled. Raises `ConfigError`, `StartRefused`, `Unavailable`."""
    make_data_dir(config)
    async with load(config.plugin_entries(), config.surroundings(), config.search_paths) as plugins:
        settings = settings_of(config)
        cipher = plugins.cipher
        if isinstance(cipher, KeyedCipher):
            cipher.key_ttl = config.chats.key_ttl
            cipher.keys_cached = config.chats.keys_cached
        plugins.cache.chats.limits = settings.cache
        yield (
            plugins,
            Parts(
                auth=plugins.auth,
                cipher=cipher,
                cache=plugins.cache,
                store=plugins.store,
                plugins=plugins,
                settings=settings,
                metrics=metrics,
                references=References(settings.references_kept),
            ),
        )
