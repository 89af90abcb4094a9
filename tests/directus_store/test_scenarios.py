"""Scenarios of integration/ that know nothing of the store behind the sidecar, with a real Directus as that: S20, S22, S43, S44, S48, S67.

Each test has people of its own there: the same names, hashed with a pepper of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.server.running import Server
from tests.conftest import Serve
from tests.directus_store.world import Prepared
from tests.integration.test_after_loss import (
    test_s20_a_draft_that_the_cache_lost_comes_back_from_its_device,
    test_s67_a_restore_that_brings_only_what_is_higher,
    test_s67_nobody_ends_with_an_older_text_and_what_lost_is_handed_back,
    test_s67_of_equal_numbers_of_two_devices_one_wins_and_the_other_keeps_a_copy,
)
from tests.integration.test_caching import (
    test_s22_after_a_day_a_persisted_draft_is_there_and_a_draft_only_chat_comes_back_from_its_device,
    test_s48_a_fourth_chat_evicts_the_least_recently_used_one_only,
)
from tests.integration.test_deletions import (
    test_s44_a_chat_with_a_tombstone_is_deleted_and_no_stale_edit_brings_it_back,
)
from tests.integration.test_sync import test_s43_a_chat_that_nobody_here_knows_is_kept_and_offered_for_upload

__all__ = [
    "test_s20_a_draft_that_the_cache_lost_comes_back_from_its_device",
    "test_s22_after_a_day_a_persisted_draft_is_there_and_a_draft_only_chat_comes_back_from_its_device",
    "test_s43_a_chat_that_nobody_here_knows_is_kept_and_offered_for_upload",
    "test_s44_a_chat_with_a_tombstone_is_deleted_and_no_stale_edit_brings_it_back",
    "test_s48_a_fourth_chat_evicts_the_least_recently_used_one_only",
    "test_s67_a_restore_that_brings_only_what_is_higher",
    "test_s67_nobody_ends_with_an_older_text_and_what_lost_is_handed_back",
    "test_s67_of_equal_numbers_of_two_devices_one_wins_and_the_other_keeps_a_copy",
]
pytestmark = [pytest.mark.caches("memory", "redis"), pytest.mark.timeout(180)]


@pytest.fixture
def serve(serve: Serve, directus: Prepared) -> Serve:
    pepper = secrets.token_hex(16)

    @asynccontextmanager
    async def run(**sections: Any) -> AsyncIterator[Server]:
        sections.setdefault("persistence", directus.section(changes="look"))
        sections.setdefault("ids", {"pepper": pepper})
        async with serve(**sections) as server:
            yield server

    return run
