"""Beyond this machine: TLS, proxies, names; and connections that want to be held for ever."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fake_clock import held_loop_time, settle
from gateway_bench import GatewayBench, gateway_bench
from sexton.cli.gateway_client import find_gateway
from sexton.daemon import SettingsError, load_settings
from sexton.errors import SextonError
from sexton.gateway import read_address
from sexton.gateway.http import OWNER, Gate, Listening, create_app, load_token, serve_http
from sexton.gateway.http import connections as connections_module
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        yield bench


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody signed, for a name that this machine does not have, and its key."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sexton.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


# TLS


async def test_with_tls_the_command_line_trusts_this_one_certificate(
    bench: GatewayBench, tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    certificate, key = pair
    listening = Listening(host="0.0.0.0", certificate=certificate, key=key, names=frozenset({"sexton.example"}))
    async with serve_http(bench.gateway, data_dir=tmp_path, listening=listening) as url:
        assert url.startswith("https://127.0.0.1:")
        address = read_address(tmp_path)
        assert address is not None
        assert address.certificate == str(certificate)

        def ask() -> Any:
            gateway = find_gateway(tmp_path)
            assert gateway is not None
            try:
                return gateway.get("status")
            finally:
                gateway.close()

        assert (await anyio.to_thread.run_sync(ask))["node"] == "here"
        async with httpx2.AsyncClient() as stranger:
            with pytest.raises(httpx2.ConnectError):
                await stranger.get(f"{url}/healthz")
        async with httpx2.AsyncClient(verify=ssl._create_unverified_context()) as browser:
            told = await browser.get(f"{url}/login", headers={"host": "sexton.example"})
            assert told.status_code == 401
            assert (await browser.get(f"{url}/healthz", headers={"host": "0.0.0.0"})).status_code == 421
            code = bench.gateway.logins.make_code(OWNER)
            cookie = (await browser.get(f"{url}/login", params={"code": code})).headers["set-cookie"]
            assert "Secure" in cookie


# Proxies


async def ask_from(bench: GatewayBench, listening: Listening, client: str, **headers: str) -> tuple[int, Any]:
    app = listening.wrapped(create_app(bench.gateway, gate=Gate(token="t", host_names=listening.host_names)))
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/login",
        "query_string": f"code={bench.gateway.logins.make_code(OWNER)}".encode(),
        "headers": [(b"host", b"sexton.example"), *given],
        "client": (client, 4711),
        "scheme": "http",
        "server": ("10.0.0.1", 80),
    }
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_only_the_proxy_gets_in_where_nothing_is_encrypted(bench: GatewayBench) -> None:
    public = Listening(host="0.0.0.0", trusted_proxy=("10.0.0.5", "fd00::/8"), names=frozenset({"sexton.example"}))
    for client, status in (
        ("10.0.0.5", 200),
        ("fd00::7", 200),
        ("127.0.0.1", 200),
        ("10.0.0.6", 403),
        ("8.8.8.8", 403),
        ("not an address", 403),
    ):
        assert (await ask_from(bench, public, client))[0] == status, client
    # What a stranger says of itself is not believed.
    assert (await ask_from(bench, public, "8.8.8.8", x_forwarded_for="127.0.0.1"))[0] == 403


async def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_only(bench: GatewayBench) -> None:
    public = Listening(host="0.0.0.0", trusted_proxy=("10.0.0.5",), names=frozenset({"sexton.example"}))
    _, told = await ask_from(bench, public, "10.0.0.5", x_forwarded_proto="https")
    assert b"Secure" in told[b"set-cookie"]
    _, plain = await ask_from(bench, public, "10.0.0.5")
    assert b"Secure" not in plain[b"set-cookie"]


# What the settings say


def write(folder: Path, text: str) -> Path:
    path = folder / "sexton.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


async def test_the_settings_name_all_of_it(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    text = f"""\
listen = "0.0.0.0:7391"
[http]
names = ["sexton.example"]
trusted_proxy = ["10.0.0.0/24"]
rate = 5.0
burst = 7
max_body = "1MiB"
[tls]
certificate = "{certificate}"
key = "{key}"
"""
    settings = load_settings(write(tmp_path, text)).http
    assert settings.listening == Listening(
        host="0.0.0.0",
        port=7391,
        certificate=certificate,
        key=key,
        trusted_proxy=("10.0.0.0/24",),
        names=frozenset({"sexton.example"}),
    )
    assert (settings.limits.rate, settings.limits.burst, settings.limits.body) == (5.0, 7, 1 << 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('listen = "0.0.0.0:80"', "nothing there is encrypted; add [tls]"),
        ('listen = "sexton.example:80"\n[http]\nnames = ["sexton.example"]', "nothing there is encrypted"),
        ('[http]\ntrusted_proxy = ["10.0.0.300"]', "must be an address or a network"),
        ('[http]\nnames = ["https://sexton.example"]', "without scheme or port"),
        ("[http]\nrate = 0.0", "http.rate is too small"),
        ('[tls]\ncertificate = "c.pem"', "needs both certificate and key"),
        ('[tls]\ncertificate = "c.pem"\nkey = "k.pem"', "c.pem, which cannot be read"),
        ('[tls]\ncertificate = "sexton.toml"\nkey = "sexton.toml"', "cannot be used together"),
        ('[http]\ntrusted_proxies = ["10.0.0.3"]', "did you mean 'trusted_proxy'"),
    ],
)
async def test_settings_that_would_expose_the_gateway_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as told:
        load_settings(write(tmp_path, text))
    assert said in str(told.value)


async def test_a_certificate_that_is_gone_is_told(bench: GatewayBench, tmp_path: Path, pair: tuple[Path, Path]) -> None:
    gone = tmp_path / "gone.pem"
    gone.write_bytes(pair[0].read_bytes())
    async with serve_http(bench.gateway, data_dir=tmp_path, listening=Listening(certificate=gone, key=pair[1])):
        gone.unlink()
        with pytest.raises(SextonError, match="cannot be read"):
            find_gateway(tmp_path)


# Connections


async def test_a_head_that_never_ends_is_given_up(
    bench: GatewayBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "HEAD_SECONDS", 0.1)
    async with serve_http(bench.gateway, data_dir=tmp_path) as url:
        port = int(url.rpartition(":")[2])
        for said in (b"", b"GET / HTTP/1.1\r\nHost: 127", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                if said:
                    await stream.send(said)
                with anyio.fail_after(PATIENCE):
                    try:
                        while True:
                            await stream.receive()
                    except anyio.EndOfStream:
                        pass


async def test_blanks_around_a_header_are_no_part_of_it(bench: GatewayBench, tmp_path: Path) -> None:
    token = load_token(tmp_path).encode()
    async with serve_http(bench.gateway, data_dir=tmp_path) as url:
        port = int(url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            head = b"GET /api/v1/status HTTP/1.1\r\nHost: \t 127.0.0.1 \t\r\nAuthorization:Bearer " + token
            await stream.send(head + b" \t\r\nConnection: close\r\n\r\n")
            with anyio.fail_after(PATIENCE):
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")


async def test_a_head_of_any_size_is_not_read(bench: GatewayBench, tmp_path: Path) -> None:
    async with serve_http(bench.gateway, data_dir=tmp_path) as url:
        port = int(url.rpartition(":")[2])
        said = b""
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: ")
            with anyio.fail_after(PATIENCE), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                for _ in range(4 * connections_module.MAX_HEAD_BYTES // 1000):
                    await stream.send(b"x" * 1000)
                while True:
                    said += await stream.receive()
        assert said.startswith(b"HTTP/1.1 400") or not said


async def test_a_request_under_way_is_not_taken_for_a_slow_head(bench: GatewayBench, tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {load_token(tmp_path)}"}
    async with (
        serve_http(bench.gateway, data_dir=tmp_path, patience=0.1) as url,
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client,
        client.stream("GET", "/api/v1/events", params={"after": 0}) as answer,
    ):
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("retry")
        with held_loop_time() as move:
            move(3 * connections_module.HEAD_SECONDS)  # longer than a head may take: the connection must still be there
            await settle()
        bench.scheduling.journal.append("server.started", subject="time")
        with anyio.fail_after(PATIENCE):
            async for line in lines:
                if line.startswith("data:") and "server.started" in line:
                    break


async def test_an_idle_server_wakes_for_nothing(bench: GatewayBench, tmp_path: Path) -> None:
    """uvicorn's own loop sleeps a tenth of a second at a time; no timer of ours is due in an idle server."""
    async with serve_http(bench.gateway, data_dir=tmp_path):
        await anyio.wait_all_tasks_blocked()
        loop: Any = asyncio.get_running_loop()
        soon = [timer for timer in loop._scheduled if not timer.cancelled() and timer.when() - loop.time() < 5]
        assert soon == []


async def test_every_answer_has_the_date(bench: GatewayBench, tmp_path: Path) -> None:
    async with serve_http(bench.gateway, data_dir=tmp_path) as url, httpx2.AsyncClient() as client:
        date = (await client.get(f"{url}/healthz")).headers["date"]
        told = datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - told).total_seconds()) < 60
