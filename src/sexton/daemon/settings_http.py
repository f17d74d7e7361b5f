"""`listen`, `[http]` and `[tls]`: where the gateway can be reached, by whom, and how much they may ask."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sexton.daemon.references import expand_home
from sexton.daemon.settings_file import Count, Size, StrictTable, Text, read_table
from sexton.daemon.settings_findings import Findings
from sexton.gateway.http import HttpLimits, Listening, is_loopback, is_network

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*|[0-9a-fA-F:]+")


class HttpTable(StrictTable):
    """`[http]`"""

    names: list[Text] = Field(default_factory=list)
    trusted_proxy: list[Text] = Field(default_factory=list)
    rate: Annotated[float, Field(gt=0)] = HttpLimits().rate
    burst: Count = HttpLimits().burst
    at_once: Count = HttpLimits().at_once
    max_body: Size = HttpLimits().body


class TlsTable(StrictTable):
    """`[tls]`"""

    certificate: Text = ""
    key: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where to listen, and what one caller may ask."""

    listening: Listening = field(default_factory=Listening)
    limits: HttpLimits = field(default_factory=HttpLimits)


def read_http(findings: Findings, listen: str, http: Any, tls: Any) -> HttpSettings:
    """What the file says; everything that is wrong goes to `findings`."""
    table, wrong = read_table(HttpTable, http if isinstance(http, dict) else {})
    findings.note(("http",), wrong)
    host, port = _address(findings, listen)
    certificate, key = _pair(findings, tls)
    _check_names(findings, table.names)
    _check_proxies(findings, table.trusted_proxy)
    if not is_loopback(host) and not tls and not table.trusted_proxy:
        findings.problem(
            ("listen",),
            f"is {listen!r}, which other machines can reach, and nothing there is encrypted; add [tls] with "
            'certificate and key, or [http] trusted_proxy = ["ADDRESS"] for a proxy that ends TLS '
            "(or use an SSH tunnel)",
        )
    return HttpSettings(
        listening=Listening(
            host=host,
            port=port,
            certificate=certificate,
            key=key,
            trusted_proxy=tuple(table.trusted_proxy),
            names=frozenset(table.names),
        ),
        limits=HttpLimits(rate=table.rate, burst=table.burst, at_once=table.at_once, body=table.max_body),
    )


def _address(findings: Findings, listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        what = f"is {listen!r}; it must be HOST:PORT, such as '127.0.0.1:7390' (port 0: any free one)"
        findings.problem(("listen",), what)
        return "127.0.0.1", 0
    return host, int(port)


def _pair(findings: Findings, tls: Any) -> tuple[Path | None, Path | None]:
    if tls is None:
        return None, None
    table, wrong = read_table(TlsTable, tls if isinstance(tls, dict) else {})
    findings.note(("tls",), wrong)
    if not isinstance(tls, dict) or not {"certificate", "key"} <= tls.keys():
        findings.problem(("tls",), "needs both certificate and key, each the path of a PEM file")
        return None, None
    if wrong:
        return None, None
    certificate, key = (findings.folder / expand_home(text) for text in (table.certificate, table.key))
    _check_pair(findings, certificate, key)
    return certificate, key


def _check_pair(findings: Findings, certificate: Path, key: Path) -> None:
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            findings.problem(("tls", name), f"is {path}, which cannot be read: {error.strerror}")
            return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        findings.problem(("tls",), f"has a certificate and a key that cannot be used together: {reason}")


def _check_names(findings: Findings, names: Iterable[str]) -> None:
    for place, name in enumerate(names):
        if not _HOST_NAME.fullmatch(name):
            findings.problem(("http", "names", place), f"is {name!r}; it must be a host name, without scheme or port")


def _check_proxies(findings: Findings, proxies: Iterable[str]) -> None:
    for place, proxy in enumerate(proxies):
        if not is_network(proxy):
            what = f"is {proxy!r}; it must be an address or a network, such as '10.0.0.5' or '10.0.0.0/24'"
            findings.problem(("http", "trusted_proxy", place), what)
