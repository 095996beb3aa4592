"""Encrypted connections, to an etcd with certificates of our own making."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from folkmoot import AuthFailed, Client, DeadlineExceeded, Tls, Unavailable
from folkmoot.sync import Client as SyncClient

from .conftest import PATIENCE, eventually_sync, free_port


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "other"):
        openssl(
            folder, "req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.crt",
            "-days", "1", "-subj", f"/CN={authority}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
    for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text(f"subjectAltName=IP:127.0.0.1,DNS:store.test\nextendedKeyUsage={usage}\n")
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-days", "1", "-extfile", "ext",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def endpoint(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
    data = tmp_path_factory.mktemp("etcd")
    url = f"https://127.0.0.1:{port}"
    command = [
        "etcd", "--data-dir", str(data), "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", f"default={peer}",
        "--cert-file", str(certificates / "server.crt"), "--key-file", str(certificates / "server.key"),
        "--trusted-ca-file", str(certificates / "ca.crt"), "--client-cert-auth",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = SyncClient(url, tls=files(certificates), request_timeout=2)
        with contextlib.closing(client):

            def there() -> bool:
                try:
                    client.get("is-there-a-leader")
                except (Unavailable, DeadlineExceeded):
                    return False
                return True

            # Made without asking, so that it may come up.
            eventually_sync("the store is there", there)
            yield url
    finally:
        process.kill()
        process.wait()


def files(folder: Path) -> Tls:
    return Tls(ca=f"{folder}/ca.crt", cert=f"{folder}/client.crt", key=f"{folder}/client.key")


async def test_files_and_texts_do_the_same(endpoint: str, certificates: Path) -> None:
    texts = Tls(
        ca=(certificates / "ca.crt").read_bytes(),
        cert=(certificates / "client.crt").read_bytes(),
        key=(certificates / "client.key").read_bytes(),
    )
    for tls in (files(certificates), texts):
        async with Client(endpoint, tls=tls) as client:
            await client.put("a", "1")
            async with client.session() as session, session.mutex("m").lock():
                assert await client.get("a") is not None
    assert "PRIVATE" not in repr(texts)


async def test_who_is_not_trusted_is_refused(endpoint: str, certificates: Path) -> None:
    ours = files(certificates)
    for wrong in (
        Tls(ca=f"{certificates}/other.crt", cert=ours.cert, key=ours.key),
        Tls(ca=ours.ca, cert=ours.cert, key=ours.key, server_name="elsewhere.test"),
        True,
    ):
        client = Client(endpoint, tls=wrong, request_timeout=0.5)
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.get("a")
        client.close()
    async with Client(endpoint, tls=Tls(ours.ca, ours.cert, ours.key, "store.test")) as client:
        assert await asyncio.wait_for(client.get("nothing"), PATIENCE) is None


async def test_who_shows_no_certificate_is_told_so(endpoint: str, certificates: Path) -> None:
    client = Client(endpoint, tls=Tls(ca=f"{certificates}/ca.crt"))
    with pytest.raises(AuthFailed, match="certificate") as refused:
        await client.put("a", "1")
    assert not refused.value.maybe_applied
    client.close()


async def test_verification_can_be_skipped(endpoint: str, certificates: Path) -> None:
    ours = files(certificates)
    tls = Tls(cert=ours.cert, key=ours.key, server_name="elsewhere.test", skip_verify=True)
    async with Client(endpoint, tls=tls) as client:
        await client.put("a", "1")


def test_encryption_and_a_plain_endpoint_do_not_go_together(certificates: Path) -> None:
    with pytest.raises(ValueError, match="https"):
        Client("http://127.0.0.1:1", tls=files(certificates))
