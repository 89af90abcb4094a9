"""Every way to a Redis that docs/redis.md names: TCP, Unix socket, TLS, password, user, cluster; and the wrong one, which is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import StartRefused
from tests.device import Device, doc
from tests.faults.world import get, sidecar
from tests.integration.world import begin, until
from tests.services.certificates import self_signed
from tests.services.cluster import RedisCluster
from tests.services.fixtures import StartCluster, StartRedis
from tests.services.ports import ReservedPort
from tests.services.redis_server import RedisServer

DOCS = Path(__file__).parents[2] / "docs" / "redis.md"
CLUSTER = {"cluster": True, "shards": 16}


async def two_devices(folder: Path, url: str, **options: Any) -> None:
    """Two people at two sidecars each: what one writes, the other's device hears of by a notice."""
    async with (
        sidecar(folder, url, options=options) as one,
        sidecar(folder, url, name="other", options=options) as other,
    ):

        async def ready() -> bool:
            told = (await get(other, "/readyz"))[1]["parts"]["cache"]["detail"]
            return bool(told["state"] == "ok" and told["notices"])

        await until(ready, 10)
        for name in ("alice", "bob", "carol"):
            async with Device(one.url, name) as a, Device(other.url, name) as b:
                await b.sync()
                await begin(a, "c1", doc("written"))
                assert (await b.event("chat_added"))["chat"]["draft"] == doc("written")


def rights() -> list[str]:
    """The user that the docs make for the sidecar alone, but its name."""
    found = re.search(r"`ACL SETUSER sidecar (on >password .*?)`", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1].split()


async def test_a_unix_socket(start_redis: StartRedis, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    await start_redis(unixsocket=str(path))
    await two_devices(tmp_path, f"unix://{path}")


async def test_tls(start_redis: StartRedis, tmp_path: Path) -> None:
    """With a certificate that is verified; one that is not known is an outage, not a way round."""
    certificate, port = self_signed(tmp_path / "tls"), ReservedPort()
    try:
        await start_redis(**certificate.directives(port.number))
        url = f"rediss://127.0.0.1:{port.number}/0"
        await two_devices(tmp_path, f"{url}?ssl_ca_certs={certificate.certificate}")
        async with sidecar(tmp_path, url, name="third") as server:
            assert (await get(server, "/readyz"))[0] == 503
    finally:
        port.close()


async def test_a_cluster_whose_first_node_is_a_replica(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = await start_cluster(replicas=1)
    await two_devices(tmp_path, cluster.nodes[-1].url, **CLUSTER)


async def test_a_cluster_with_a_password(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = await start_cluster(replicas=1, requirepass="secret", masterauth="secret")
    assert ":secret@" in cluster.url
    await two_devices(tmp_path, cluster.url, **CLUSTER)
    for wrong in (cluster.url.replace("secret", "other"), cluster.url.replace(":secret@", "")):
        with pytest.raises(StartRefused, match=r"wants a password|refuses this user"):
            async with sidecar(tmp_path, wrong, name="third", options=CLUSTER):
                pass


async def test_a_cluster_with_a_user_for_the_sidecar_alone(start_cluster: StartCluster, tmp_path: Path) -> None:
    """The user of the docs may do all that the sidecar does in a cluster: no node has denied anything."""
    cluster = await start_cluster()
    for node in cluster.nodes:
        await node.cli("ACL", "SETUSER", "sidecar", *rights())
    await two_devices(tmp_path, cluster.url.replace("redis://", "redis://sidecar:password@"), **CLUSTER)
    for node in cluster.nodes:
        assert await node.cli("ACL", "LOG") == []


async def test_a_cluster_with_tls(start_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that comes by TLS is told of the other nodes' TLS ports, and goes there by TLS too; with `rediss://` and no more,
    where the system trusts the certificate."""
    certificate = self_signed(tmp_path / "tls")
    cluster = await start_cluster(tls=certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    await two_devices(tmp_path, f"rediss://127.0.0.1:{cluster.nodes[0].tls_port}", **CLUSTER)


@pytest.mark.parametrize("cluster", [True, False], ids=["a cluster is said", "no cluster is said"])
async def test_the_wrong_kind_of_server_refuses_the_start(
    cluster: bool, redis_server: RedisServer, redis_cluster: RedisCluster, tmp_path: Path
) -> None:
    """Else every call would be answered `unavailable` for ever, or by another node's address."""
    url = redis_server.url if cluster else redis_cluster.url
    with pytest.raises(StartRefused, match=rf"cache\.options\.cluster: {str(not cluster).lower()}"):
        async with sidecar(tmp_path, url, options={"cluster": cluster}):
            pass
