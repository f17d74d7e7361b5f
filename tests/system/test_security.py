"""The running gateway towards those who have a token, a link, or neither; and what it tells a collector of traces."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sexton.daemon.settings_telemetry import TelemetrySettings
from sexton.daemon.telemetry import telemetry
from sexton.errors import SextonError
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

SECRET = "correct-horse-battery"
SETTINGS = """
[servers.small]
@SERVER@
env = { API_KEY = "${env:SEXTON_TEST_SECRET}" }

[jobs.tells]
command = ["sh", "-c", "echo $KEY; echo it was $KEY >&2; exit 1"]
env = { KEY = "${env:SEXTON_TEST_SECRET}" }

[jobs.calls]
call = "small.echo"
arguments = { text = "${env:SEXTON_TEST_SECRET}" }
"""


def address(gateway: GatewayProcess) -> str:
    return str(json.loads((gateway.data / "gateway.json").read_text())["url"])


def client(gateway: GatewayProcess, token: str = "") -> httpx2.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.Client(base_url=address(gateway), headers=headers, timeout=PATIENCE, trust_env=False)


def test_a_token_is_made_used_and_revoked_and_outlives_a_restart(gateway: GatewayProcess) -> None:
    gateway.write("").up()
    token = gateway.cli("token", "create", "monitor", "--lasts", "1d")["token"]
    assert re.fullmatch(r"sxt_[a-z0-9]{8}_[\w-]{43}", token)
    with client(gateway, token) as monitor:
        assert monitor.get("/metrics").status_code == 200
        assert monitor.post("/api/v1/reap", json={}).status_code == 403
    gateway.stop()
    gateway.up()
    with client(gateway, token) as monitor, client(gateway) as stranger:
        assert monitor.get("/api/v1/status").status_code == 200
        assert stranger.get("/api/v1/status").status_code == 401
        assert stranger.get("/readyz").json()["ready"] is True
        assert gateway.cli("token", "revoke", "monitor")["valid"] is False
        assert monitor.get("/api/v1/status").status_code == 401
    [listed] = gateway.cli("token")
    assert (listed["name"], listed["valid"]) == ("monitor", False)
    assert token not in gateway.output() + (gateway.data / "journal.jsonl").read_text()
    audits = [event["kind"] for event in gateway.events("audit.")]
    assert audits == ["audit.create_token", "audit.reap", "audit.revoke_token"]
    gateway.stop()


def test_a_link_of_open_logs_a_browser_in_once(gateway: GatewayProcess) -> None:
    gateway.write("").up()
    link = gateway.cli("open")["url"]
    with client(gateway) as browser, client(gateway) as late:
        assert browser.get(link).status_code == 200
        page = browser.get("/", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert "set-cookie" not in page.headers
        assert browser.post("/api/v1/reap", json={}).json()["type"] == "urn:sexton:problem:csrf"
        assert late.get(link).status_code == 401
        assert link.rpartition("=")[2] not in (gateway.data / "journal.jsonl").read_text()
    gateway.stop()


def test_only_a_terminal_is_shown_a_link(gateway: GatewayProcess, tmp_path: Path) -> None:
    gateway.write("").up()
    assert "/login?code=" not in gateway.output()
    gateway.stop()
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123 a descriptor
        shown = subprocess.Popen(gateway.command("up"), stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
        os.close(theirs)
        said = b""
        while b"/login?code=" not in said:
            said += screen.read(4096)
        link = re.search(rb"http://\S+/login\?code=[\w-]+", said)
        assert link is not None
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as browser:
            assert browser.get(link[0].decode()).status_code == 200
        shown.send_signal(signal.SIGTERM)
        reader = threading.Thread(target=_drain, args=(screen,), daemon=True)
        reader.start()
        assert shown.wait(PATIENCE) == 0
        reader.join(PATIENCE)


def _drain(screen: Any) -> None:
    try:
        while screen.read(4096):
            pass
    except OSError:  # EIO: the other side is closed
        return


def test_no_secret_of_the_settings_is_written_or_answered(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up(SEXTON_TEST_SECRET=SECRET)
    with client(gateway, (gateway.data / "token").read_text().strip()) as owner:
        for job in ("tells", "calls"):
            owner.post(f"/api/v1/jobs/{job}/run", json={})
            gateway.wait_event("run.ended", subject=job)
        told = [owner.get(f"/api/v1/{path}").text for path in ("runs", "jobs", "servers", "processes", "status")]
        runs = owner.get("/api/v1/runs").json()
        told += [owner.get(f"/api/v1/runs/{run['id']}").text for run in runs]
        calls = next(run for run in runs if run["job"] == "calls")
        recorded = owner.get(f"/api/v1/runs/{calls['id']}/calls").json()
        assert recorded[0]["arguments"] == {"text": "•••"}
    gateway.stop()
    gateway.wait_read()
    told += [gateway.output()]
    assert all(SECRET not in text for text in told)
    files = [path for path in gateway.data.rglob("*") if path.is_file()]
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_an_address_beyond_this_machine_is_refused_without_tls(gateway: GatewayProcess) -> None:
    gateway.settings.write_text('listen = "0.0.0.0:0"\n')
    gateway.start()
    assert gateway.wait_exit(within=PATIENCE) == 2
    gateway.wait_read()
    assert "nothing there is encrypted" in gateway.output()


# Traces


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the output of the test."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@pytest.mark.parametrize("way", ["settings", "environment"])
def test_a_run_its_call_and_the_servers_start_are_traced(gateway: GatewayProcess, way: str) -> None:
    with collector() as (url, spans):
        table = f'[telemetry]\nendpoint = "{url}"\n' if way == "settings" else ""
        environment: Any = {} if table else {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        gateway.write(table + SETTINGS).up(SEXTON_TEST_SECRET=SECRET, OTEL_BSP_SCHEDULE_DELAY="100", **environment)
        gateway.cli("jobs", "run", "calls")
        gateway.wait_event("run.ended", subject="calls")
        gateway.stop()  # sends what is left
        wait_for(
            lambda: {"run", "tool call", "server start"} <= {span.name for span in spans}, within=PATIENCE, what="spans"
        )
    named = {span.name: span for span in spans}
    run, call = named["run"], named["tool call"]
    assert (call.trace_id, call.parent_span_id) == (run.trace_id, run.span_id)
    attributes = {pair.key: pair.value.string_value for pair in call.attributes}
    assert (attributes["sexton.server"], attributes["sexton.tool"]) == ("small", "echo")
    assert SECRET not in str(spans)


def test_a_collector_that_is_away_delays_no_stop(gateway: GatewayProcess) -> None:
    gateway.write('[telemetry]\nendpoint = "http://127.0.0.1:9"\n' + SETTINGS).up(SEXTON_TEST_SECRET=SECRET)
    gateway.cli("jobs", "run", "calls")
    gateway.wait_event("run.ended", subject="calls")
    gateway.stop()


def test_what_is_missing_for_traces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "sexton.daemon.trace_export", raising=False)
    wanted = TelemetrySettings(endpoint="http://127.0.0.1:9")
    with pytest.raises(SextonError, match="is not installed") as told, telemetry(wanted, {}):
        pass
    assert "sexton[otel]" in str(told.value)
