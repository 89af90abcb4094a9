"""TLS with a CA of one's own: a certificate made here, and a front that speaks TLS before a real Vault."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar import Unavailable
from tests.sealing import opens, seal
from tests.services.vault.vault import Vault
from tests.vault.world import opened, plugin, refused


@dataclass(frozen=True)
class Made:
    certificate: Path
    key: Path


def make_certificate(folder: Path, name: str, names: list[x509.GeneralName], days: int = 1) -> Made:
    """One that signed itself, good for these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Made(folder / f"{name}.pem", folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


@asynccontextmanager
async def front(vault: Vault, made: Made) -> AsyncIterator[str]:
    """`https://127.0.0.1:…` before this Vault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    behind = urlsplit(vault.url)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(behind.hostname, behind.port)
        for each in (pump(reader, ours), pump(theirs, writer)):
            task = asyncio.create_task(each)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


LOCAL: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


async def test_a_ca_of_ones_own(vault_server: Vault, tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "vault", LOCAL)
    async with front(vault_server, made) as url, opened(vault_server, url=url, ca=str(made.certificate)) as cipher:
        assert await opens(cipher, 1, *await seal(cipher, 1))
    assert len(await vault_server.entries()) == 1


@pytest.mark.parametrize("wrong", ["the system's CAs", "another CA", "another name", "expired"])
async def test_a_certificate_that_is_not_good_is_not_talked_to(vault_server: Vault, tmp_path: Path, wrong: str) -> None:
    """No token leaves; it is waited for, since whoever renews certificates may be at it."""
    names: list[x509.GeneralName] = [x509.DNSName("other.example")] if wrong == "another name" else LOCAL
    made = make_certificate(tmp_path, "vault", names, days=-1 if wrong == "expired" else 1)
    ca = make_certificate(tmp_path, "other", LOCAL) if wrong == "another CA" else made
    options = {} if wrong == "the system's CAs" else {"ca": str(ca.certificate)}
    async with front(vault_server, made) as url, plugin(vault_server, url=url, **options) as entered:
        cipher = await entered.provide_encryption()
        with pytest.raises(Unavailable, match="certificate of Vault is not accepted"):
            await seal(cipher, 1)
        assert "see ca" in entered.state()["reason"]
    assert await vault_server.entries() == []


async def test_a_ca_file_that_is_none_refuses_the_start(vault_server: Vault, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    url = "https://127.0.0.1:1"
    for name in ("none.pem", "empty.pem"):
        assert f"{tmp_path / name} (ca) cannot be used" in await refused(vault_server, url=url, ca=str(tmp_path / name))


async def test_https_to_a_port_that_speaks_none(vault_server: Vault) -> None:
    async with plugin(vault_server, url=vault_server.url.replace("http:", "https:")) as entered:
        assert "TLS with Vault failed" in entered.state()["reason"]


async def test_http_to_a_port_that_speaks_tls(vault_server: Vault, tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "vault", LOCAL)
    async with front(vault_server, made) as url, plugin(vault_server, url=url.replace("https:", "http:")) as entered:
        assert entered.state()["ok"] is False
