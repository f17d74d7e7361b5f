"""From the settings of a target to the target."""

from __future__ import annotations

from typing import TypeAlias

from sexton.clock import Clock
from sexton.gateway.deliveries.apprise_target import AppriseConfig, AppriseTarget
from sexton.gateway.deliveries.file_target import FileConfig, FileTarget
from sexton.gateway.deliveries.target import Target
from sexton.gateway.deliveries.webhook import WebhookConfig, WebhookTarget

TargetConfig: TypeAlias = WebhookConfig | FileConfig | AppriseConfig


def make_target(config: TargetConfig, *, clock: Clock) -> Target:
    """Raises `UsageError` if what it needs is not installed, or its address cannot be used."""
    match config:
        case WebhookConfig():
            return WebhookTarget(config, clock=clock)
        case FileConfig():
            return FileTarget(config)
        case AppriseConfig():
            return AppriseTarget(config)
