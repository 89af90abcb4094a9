"""A Directus below a path of its proxy, as `https://example.com/cms`: calls, WebSocket and bootstrap go there, and nothing goes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.auth.directus import Directus as SignIn
from plugins.directus.bootstrap import bootstrap
from plugins.directus.options import DirectusOptions
from plugins.directus.store_findings import needed_for_store
from plugins.persistence.directus import Directus
from sidecar import StartRefused
from tests.device import Device, doc
from tests.directus.people import human
from tests.directus.test_sign_in import shown
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import ADMIN_TOKEN


async def test_everything_goes_below_the_path(directus: Prepared, serve_on: ServeOn, tmp_path: Path) -> None:
    person = somebody()
    async with DirectusFront(directus.server.url, below="/cms") as front:
        assert front.url.endswith("/cms")
        async with serve_on(directus, f"{front.url}/") as server, Device(server.url, person) as device:
            await until(lambda: bool(plugin_of(server).state()["listening"]))
            await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
            await settled(server)
            await directus.delete("chats", key_of(person, "one"))
            assert (await device.event("chat_deleted"))["chatId"] == device.full("one")
        anna = await human(directus.server, "Anna")
        options = SignIn.Options.model_validate({"url": front.url, "token": directus.token})
        async with SignIn(options) as auth:
            assert (await auth.sign_in(shown(await anna.access_token()))).user_id == anna.id
        told = DirectusOptions.model_validate(
            {"url": front.url, "token": directus.token, "collections": directus.names.model_dump()}
        )
        environment = {"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN}
        assert await bootstrap(told, needed_for_store(directus.names), dry_run=True, environment=environment) == []
        assert all(path.startswith("/cms/") for _, path in front.seen)
        assert all(path.startswith("/cms/") for path in front.opened)
        outside = Directus.Options.model_validate(directus.section(front.url.removesuffix("/cms"))["options"])
        with pytest.raises(StartRefused, match=r"is no Directus \(404 text/html\); look at persistence\.options\.url"):
            async with Directus(outside):
                pass
