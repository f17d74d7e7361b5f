"""Whether spans are sent anywhere."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sexton.daemon.settings_telemetry import TelemetrySettings
from sexton.errors import SextonError


@contextmanager
def telemetry(settings: TelemetrySettings, environment: Mapping[str, str]) -> Iterator[None]:
    """Send spans, if somebody said where to, until the block is left.

    Raises `SextonError` if they are wanted and the packages for it are not there.
    """
    if not settings.is_wanted(environment):
        yield
        return
    try:
        export = importlib.import_module("sexton.daemon.trace_export")
    except ModuleNotFoundError as error:
        raise SextonError(
            f"Traces are wanted, and the package {error.name} is not installed.",
            hint="install what they need: pip install 'sexton[otel]'; or take [telemetry] and OTEL_… away",
        ) from error
    with export.exporting(settings):
        yield
