"""`[telemetry]`: where spans go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from sexton.daemon.settings_file import StrictTable, Text, read_table
from sexton.daemon.settings_findings import Findings


class TelemetryTable(StrictTable):
    """`[telemetry]`"""

    endpoint: Text | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    service_name: Text = "sexton"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """`endpoint` is the collector's address without `/v1/traces`, `sample` the share of traces that is kept."""

    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_name: str = "sexton"
    sample: float = 1.0

    def is_wanted(self, environment: Mapping[str, str]) -> bool:
        """Whether anybody said where spans go, here or by OpenTelemetry's own variables."""
        if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return False
        return bool(self.endpoint or any(environment.get(name) for name in _ENDPOINTS))


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def read_telemetry(findings: Findings, raw: Any) -> TelemetrySettings:
    """What the file says; everything that is wrong goes to `findings`."""
    table, wrong = read_table(TelemetryTable, raw if isinstance(raw, dict) else {})
    findings.note(("telemetry",), wrong)
    endpoint = findings.resolved(("telemetry", "endpoint"), table.endpoint) if table.endpoint else None
    if endpoint and not re.match(r"https?://[^/\s]", endpoint):
        findings.problem(("telemetry", "endpoint"), "must begin with http:// or https:// and name a host")
    headers = {name: findings.resolved(("telemetry", "headers", name), text) for name, text in table.headers.items()}
    return TelemetrySettings(endpoint=endpoint, headers=headers, service_name=table.service_name, sample=table.sample)
