"""Sends spans to a collector by OTLP over HTTP.  Needs the extra `otel`; imported only when somebody wants it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

import sexton
from sexton.daemon.settings_telemetry import TelemetrySettings

_LAST_SECONDS = 2.0


@contextmanager
def exporting(settings: TelemetrySettings) -> Iterator[None]:
    """Export until the block is left, and then what is left, for two seconds at most: a stop waits for no collector.

    What the settings do not say, the exporter reads from the `OTEL_…` variables of the environment.
    """
    resource = Resource.create({"service.name": settings.service_name, "service.version": sexton.__version__})
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample)), resource=resource, shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(settings)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)


def _exporter(settings: TelemetrySettings) -> OTLPSpanExporter:
    if settings.endpoint is None:
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", headers=dict(settings.headers))
