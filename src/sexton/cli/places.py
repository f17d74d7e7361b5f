"""Where the configuration and the state are (pure but for asking which files exist)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sexton.errors import UsageError

CONFIG_NAME = "sexton.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the options and the environment say.

    `config_option` and `data_option` are `--config` and `--data`; `environ` is the environment, `cwd` where we stand.
    """

    config_option: Path | None
    data_option: Path | None
    environ: Mapping[str, str]
    cwd: Path

    def find_config(self) -> Path:
        """The configuration: `--config`, `$SEXTON_CONFIG`, `./sexton.toml`, then the XDG config folder.

        Raises `UsageError` if there is none, or the one that was asked for does not exist.
        """
        if named := self._named_config():
            return self._existing(named)
        candidates = self._usual_configs()
        for path in candidates:
            if path.is_file():
                return path
        looked = "\n  ".join(str(path) for path in candidates)
        raise UsageError(
            f"There is no configuration.  We looked for:\n  {looked}",
            hint="write one with: sexton init  (or name one: sexton --config FILE …)",
        )

    def config_to_write(self) -> Path:
        """Where `sexton init` puts a new one."""
        return self._named_config() or self.cwd / CONFIG_NAME

    def config_to_extend(self) -> Path:
        """The configuration that is there, else where a new one goes."""
        if named := self._named_config():
            return named
        return next((path for path in self._usual_configs() if path.is_file()), None) or self.cwd / CONFIG_NAME

    def data_dir(self) -> Path:
        """The state: `--data`, `$SEXTON_DATA`, or `sexton` in the XDG state folder.  It need not exist."""
        if self.data_option is not None:
            return self.cwd / self.data_option.expanduser()
        if said := self.environ.get("SEXTON_DATA"):
            return self.cwd / Path(said).expanduser()
        return self._xdg("XDG_STATE_HOME", ".local/state") / "sexton"

    def names_data(self) -> bool:
        """Whether somebody chose the data folder."""
        return self.data_option is not None or bool(self.environ.get("SEXTON_DATA"))

    def _named_config(self) -> Path | None:
        if self.config_option is not None:
            return self.cwd / self.config_option.expanduser()
        if said := self.environ.get("SEXTON_CONFIG"):
            return self.cwd / Path(said).expanduser()
        return None

    def _existing(self, path: Path) -> Path:
        if path.is_file():
            return path
        who = "--config" if self.config_option is not None else "$SEXTON_CONFIG"
        raise UsageError(
            f"{who} names {path}, which is {'not a file' if path.exists() else 'not there'}.",
            hint=f"check the name, or write a new one there: sexton --config {path} init",
        )

    def _usual_configs(self) -> tuple[Path, ...]:
        return (self.cwd / CONFIG_NAME, self._xdg("XDG_CONFIG_HOME", ".config") / "sexton" / CONFIG_NAME)

    def _xdg(self, variable: str, otherwise: str) -> Path:
        """A relative value counts as unset (XDG Base Directory Specification)."""
        said = Path(self.environ.get(variable, ""))
        return said if said.is_absolute() else Path(self.environ.get("HOME", "~")).expanduser() / otherwise
