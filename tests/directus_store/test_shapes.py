"""JSON of another shape in place of Directus' own, while it serves: nobody is told that there is nothing, or that they are nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plugins.auth.directus import Directus as SignIn
from plugins.persistence.directus import Directus
from sidecar import Unavailable
from sidecar.ids import hash_user
from sidecar.testing.rows import a_chat, a_device, a_message
from tests.directus.people import human
from tests.directus.test_sign_in import shown
from tests.directus_store.world import Prepared, somebody
from tests.services.directus.front import DirectusFront

_SHAPES = (
    "7", "null", "[]", "{}", '{"data": null}', '{"data": "x"}', '{"data": {"id": 1}}', '{"data": [1, 2, 3]}', '{"data": [null]}',
    '{"data": [[]]}', '{"data": [{}]}', '{"data": [{"id": 7}]}', '{"data": [{"id": null, "count": "x"}]}', '{"data": [{"count": -5}]}',
    '{"errors": []}', '{"errors": [{"extensions": 7}]}',
)  # fmt: skip
_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("shape", _SHAPES)
async def test_s46_another_shape_is_no_empty_list(directus: Prepared, front: DirectusFront, shape: str) -> None:
    user = hash_user(somebody())
    chat = a_chat("one", user)
    options = Directus.Options.model_validate(directus.section(front.url, changes="notices")["options"])
    async with Directus(options) as plugin:
        store = await plugin.provide_persistence()
        await plugin.on_first_message(chat, a_message(chat))
        await store.put_device(a_device("one", user))
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "chats": lambda: plugin.on_sync(user, None, 10),
            "known": lambda: store.known(user, [chat.id]),
            "messages": lambda: store.messages(user, chat.id, None, 10),
            "devices": lambda: store.devices(user),
        }
        for name, read in reads.items():
            fault = front.answer(200, shape, 10**6, headers=_JSON)
            with pytest.raises(Unavailable):
                await read()
            assert fault.happened, name
            front.clear()
        assert (await plugin.on_sync(user, None, 10)).items == [chat], "and afterwards all is as before"


@pytest.mark.parametrize("shape", _SHAPES)
async def test_another_shape_sends_nobody_away(directus: Prepared, front: DirectusFront, shape: str) -> None:
    anna = await human(directus.server, "Anna")
    options = SignIn.Options.model_validate({"url": front.url, "token": directus.token})
    async with SignIn(options) as auth:
        token = shown(await anna.access_token())
        people = front.answer(
            200, shape, 10**6, of=lambda method, path: (method, path) == ("SEARCH", "/users"), headers=_JSON
        )
        with pytest.raises(Unavailable):
            await auth.sign_in(token)
        assert people.happened
        front.clear()
        session = await auth.sign_in(token)
        front.answer(200, shape, 10**6, of=lambda method, path: (method, path) == ("SEARCH", "/users"), headers=_JSON)
        with pytest.raises(Unavailable):
            await auth.recheck(session)
        front.clear()
        await auth.recheck(session)
