"""Composition root: the only code that knows every part.

It owns the settings file, the data folder, the order in which the parts start
and stop, and what the service manager is told.  What each part does is the
part's own business.

Names are loaded when they are first used, so that a command that only needs
to know where the data folder is does not pay for the MCP SDK and a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sexton.daemon.data_folder import DataFolderInUse, claimed_data_folder, holder_of
    from sexton.daemon.lifecycle import serve
    from sexton.daemon.quantities import format_duration, parse_duration, parse_size
    from sexton.daemon.server_import import ImportReport, Variable, import_servers
    from sexton.daemon.service import ServiceUnit, install_service, service_unit
    from sexton.daemon.settings import Settings, load_settings
    from sexton.daemon.settings_problems import Problem, SettingsError
    from sexton.daemon.single_call import call_once, check_once, list_servers_once, list_tools_once
    from sexton.daemon.starter import Launchers, starter_text, write_starter

_HOMES = {
    "DataFolderInUse": "data_folder",
    "ImportReport": "server_import",
    "Launchers": "starter",
    "Problem": "settings_problems",
    "Settings": "settings",
    "ServiceUnit": "service",
    "SettingsError": "settings_problems",
    "Variable": "server_import",
    "call_once": "single_call",
    "check_once": "single_call",
    "claimed_data_folder": "data_folder",
    "format_duration": "quantities",
    "holder_of": "data_folder",
    "import_servers": "server_import",
    "install_service": "service",
    "list_servers_once": "single_call",
    "list_tools_once": "single_call",
    "load_settings": "settings",
    "parse_duration": "quantities",
    "parse_size": "quantities",
    "serve": "lifecycle",
    "service_unit": "service",
    "starter_text": "starter",
    "write_starter": "starter",
}

__all__ = [
    "DataFolderInUse",
    "ImportReport",
    "Launchers",
    "Problem",
    "ServiceUnit",
    "Settings",
    "SettingsError",
    "Variable",
    "call_once",
    "check_once",
    "claimed_data_folder",
    "format_duration",
    "holder_of",
    "import_servers",
    "install_service",
    "list_servers_once",
    "list_tools_once",
    "load_settings",
    "parse_duration",
    "parse_size",
    "serve",
    "service_unit",
    "starter_text",
    "write_starter",
]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
