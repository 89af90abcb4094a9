"""Dead letters: outbox entries that were parked (semantics §5): `dead-letters-list`, `-replay`, `-drop`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from sidecar.changes import Entry
from sidecar.ids import client_part
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, OperationRefused, progress, result, row
from sidecar.operations.work import Work
from sidecar.records import rfc3339


async def list_letters(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Rows, oldest first: `entry`, `plugin`, `kind`, `chat`, `message`, `user` (the hash), `since`, `tries`."""
    letters = await _chosen(work, arguments)
    found = [(entry, plugin) for plugin, entries in letters.items() for entry in entries]
    for entry, plugin in sorted(found, key=lambda each: (each[0].at, each[0].id, each[1])):
        yield row(
            entry=entry.id,
            plugin=plugin,
            kind=entry.kind,
            chat=entry.chat_id,
            message=entry.message_id,
            user=entry.user,
            since=rfc3339(entry.at),
            tries=entry.tries,
        )
    yield result(count=len(found))


async def replay_letters(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Takes them up again, in order, and waits a little for what comes of it.

    Result: `count` taken up, `waiting` for these plugins still, `parked` once more.
    """
    _refuse_without_choice(arguments)
    letters = await _chosen(work, arguments)
    outbox = work.parts.cache.outbox
    back: dict[str, set[str]] = {}
    for plugin, entries in letters.items():
        ids = [entry.id for entry in entries]
        left = {entry.id for entry in await outbox.parked(plugin, replay=ids)} if ids else set()
        back[plugin] = set(ids) - left
    count = sum(map(len, back.values()))
    yield progress(count, count)
    plugins = [plugin for plugin, ids in back.items() if ids]
    waiting = await work.deliveries(plugins) if plugins else 0
    again = [entry for plugin in plugins for entry in await outbox.parked(plugin) if entry.id in back[plugin]]
    yield result(count=count, waiting=waiting, parked=len(again))


async def drop_letters(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Forgets them: what they would have written is never written."""
    _refuse_without_choice(arguments)
    count = 0
    for plugin, entries in (await _chosen(work, arguments)).items():
        ids = [entry.id for entry in entries]
        if ids:
            left = {entry.id for entry in await work.parts.cache.outbox.parked(plugin, drop=ids)}
            count += len(set(ids) - left)
    work.wake()
    yield result(count=count)


def _refuse_without_choice(arguments: Arguments) -> None:
    if not (arguments.everything or arguments.plugin or arguments.chat):
        raise OperationRefused("nothing says which dead letters are meant", "give --plugin, --chat or --all")
    if arguments.everything and (arguments.plugin or arguments.chat):
        raise OperationRefused("--all and a choice contradict each other", "leave one of them away")


async def _chosen(work: Work, arguments: Arguments) -> Mapping[str, Sequence[Entry]]:
    outbox = work.parts.cache.outbox
    names = list(await outbox.positions())
    if arguments.plugin is not None:
        if arguments.plugin not in names:
            raise OperationRefused(
                f"the outbox knows no plugin {arguments.plugin}", f"it knows: {', '.join(sorted(names)) or 'none'}"
            )
        names = [arguments.plugin]
    return {name: [entry for entry in await outbox.parked(name) if _meant(arguments.chat, entry)] for name in names}


def _meant(chat: str | None, entry: Entry) -> bool:
    if chat is None:
        return True
    return entry.chat_id is not None and chat in (entry.chat_id, client_part(entry.chat_id))
