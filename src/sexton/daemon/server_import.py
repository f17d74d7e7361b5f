"""Servers from another program's settings into `sexton.toml`.

Reads the JSON of Claude Desktop, Claude Code and Cursor (`mcpServers`) and of
VS Code (`servers`, with comments and inputs), a hermes `config.yaml` and a
Codex `config.toml` (`mcp_servers`).  Values that look like secrets become
`${env:NAME}`; they are never shown and never written.  The new tables are put
at the end of `sexton.toml`; what stands there is kept byte for byte.  Either
the whole new file takes the old one's place, or nothing changes.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from sexton.daemon.jsonc import parse_jsonc
from sexton.daemon.settings_file import ServerTable, read_table, valid_name
from sexton.daemon.settings_problems import dotted
from sexton.errors import SextonError, UsageError
from sexton.whole_file import replace_file

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|API[-_]?KEY|ACCESS[-_]?KEY|PRIVATE[-_]?KEY|CREDENTIAL|AUTHORIZATION|COOKIE|(^|[-_])(KEY|PAT)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|glpat-[\w-]{16,}|ntn_\w{20,}|"
    r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_URL_SECRET = re.compile(r"(?P<before>[?&](?P<name>[\w-]+)=)(?P<value>[^&#$]+)")
_URL_PASSWORD = re.compile(r"(?P<before>://[^/@:]+:)(?P<value>[^/@$]+)(?=@)")
_PLACEHOLDER = re.compile(r"\$\{(?!env:|file:)([^}]*)\}")
_SHELL_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:-.*)?")
_KNOWN_KEYS = {
    "command", "args", "env", "cwd", "url", "serverUrl", "httpUrl", "headers", "http_headers", "type", "transport",
    "disabled", "enabled", "timeout", "connect_timeout", "startup_timeout_sec", "tool_timeout_sec", "tools",
    "enabled_tools", "disabled_tools", "includeTools", "excludeTools", "disabledTools",
    "description", "name", "alwaysAllow", "autoApprove", "gallery", "version", "trust",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """An environment variable that the imported servers read, and where its value stands now."""

    name: str
    servers: tuple[str, ...]
    found_at: str
    is_set: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did: names of servers, and what is left to do.

    `already_there` are servers that stand in the target with the same
    definition; `clashes` stand there with another one and were left alone.
    `renamed` maps names of the source to ours.
    """

    source: Path
    target: Path
    added: tuple[str, ...]
    already_there: tuple[str, ...] = ()
    clashes: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[Variable, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    """Nothing was written; `added` is what would be."""

    def text(self) -> str:
        """The report for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.added:
            added = "would get" if self.dry_run else "got"
            yield f"{self.target} {added} {_counted(self.added)} from {self.source}: {', '.join(self.added)}."
        else:
            yield f"{self.target} was left as it is: nothing new in {self.source}."
        for old, new in self.renamed.items():
            yield f"  '{old}' is called '{new}' here."
        if self.already_there:
            yield f"  already there, with the same definition: {', '.join(self.already_there)}."
        for name in self.clashes:
            yield f"  not imported: '{name}' stands there already with another definition; rename one of them."
        for note in self.notes:
            yield f"  {note}"
        if unset := [variable for variable in self.variables if not variable.is_set]:
            yield "Set these before the next `sexton up` (their values were not copied):"
            for variable in unset:
                yield f"  {variable.name}   for {', '.join(variable.servers)}; its value: {variable.found_at}"


def import_servers(
    source: Path, target: Path, *, dry_run: bool = False, environment: Mapping[str, str] | None = None
) -> ImportReport:
    """Add the servers of `source` to `target` (made if missing) and say what was done.

    Raises UsageError where `source` cannot be read or holds no servers, or
    where `target` is no TOML; then nothing has changed.
    """
    environment = os.environ if environment is None else environment
    servers, place = _servers_in(source)
    before = _text_of(target)
    present = _present_servers(target, before)
    reading = _Import(source=source.absolute(), place=place, environment=environment)
    added: dict[str, dict[str, Any]] = {}
    same: list[str] = []
    clashes: list[str] = []
    renamed: dict[str, str] = {}
    for written, entry in servers.items():
        name = _our_name(written)
        if name != written:
            renamed[written] = name
        table = reading.table(written, name, entry)
        if table is None:
            continue
        if name in present or name in added:
            (same if present.get(name, added.get(name)) == table else clashes).append(name)
        else:
            added[name] = table
    if added and not dry_run:
        _replace(target, _appended(target, before, added))
    variables = reading.variables({*added, *same})
    return ImportReport(
        source=source,
        target=target,
        added=tuple(added),
        already_there=tuple(same),
        clashes=tuple(clashes),
        renamed=renamed,
        variables=variables,
        notes=tuple(reading.notes),
        dry_run=dry_run,
    )


def _counted(names: tuple[str, ...]) -> str:
    return "1 server" if len(names) == 1 else f"{len(names)} servers"


# -- reading the other program's file


def _servers_in(source: Path) -> tuple[Mapping[str, Any], str]:
    """The servers of `source`, and the key under which they stand."""
    content = _content(source)
    for keys in (("mcpServers",), ("servers",), ("mcp", "servers"), ("mcp_servers",), ("mcp", "mcpServers")):
        found: Any = content
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found, ".".join(keys)
    raise UsageError(
        f"{source} holds no MCP servers: none of the keys mcpServers, servers, mcp.servers or mcp_servers is there.",
        hint="name the file in which the other program keeps them, such as claude_desktop_config.json,"
        " .cursor/mcp.json, .vscode/mcp.json, ~/.hermes/config.yaml or ~/.codex/config.toml",
    )


def _content(source: Path) -> Any:
    text = _source_text(source)
    try:
        if source.suffix in {".yaml", ".yml"}:
            return yaml.safe_load(text)
        if source.suffix == ".toml":
            return tomllib.loads(text)
        return parse_jsonc(text)
    except json.JSONDecodeError as problem:
        raise UsageError(f"{source}:{problem.lineno}: is no JSON: {problem.msg} (column {problem.colno}).") from problem
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"{source} is no TOML: {problem}.") from problem
    except yaml.MarkedYAMLError as problem:
        line = f":{problem.problem_mark.line + 1}" if problem.problem_mark else ""
        raise UsageError(f"{source}{line}: is no YAML: {problem.problem}.") from problem
    except yaml.YAMLError as problem:
        raise UsageError(f"{source} is no YAML.") from problem


def _source_text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{source} cannot be read: {problem.strerror}.") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{source} is not UTF-8 text.") from problem


def _our_name(written: str) -> str:
    if valid_name(written) is None:
        return written
    return re.sub(r"[-_]{2,}", "-", re.sub(r"[^A-Za-z0-9_-]+", "-", written)).strip("-_")[:64].rstrip("-_") or "server"


# -- one entry of it as a table of ours


@dataclass(slots=True, kw_only=True)
class _Import:
    source: Path
    place: str
    environment: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)  # variable to the place of its value
    values: dict[str, str] = field(default_factory=dict)  # variable to its value, only to tell two apart
    users: dict[str, list[str]] = field(default_factory=dict)

    def table(self, written: str, name: str, entry: Any) -> dict[str, Any] | None:
        """`entry` as a `[servers.NAME]` table, or None (and a note) where that cannot be."""
        if not isinstance(entry, dict):
            self.notes.append(f"'{written}' was left out: it is no table.")
            return None
        if unknown := sorted(set(entry) - _KNOWN_KEYS):
            self.notes.append(f"'{written}': not taken over: {', '.join(unknown)}.")
        table = {
            key: value for key, value in self.translated(written, name, entry).items() if value not in (None, {}, [])
        }
        _, wrong = read_table(ServerTable, table)
        if wrong or ("command" in table) == ("url" in table):
            faults = "; ".join(f"{dotted(path)} {what}" for path, what in wrong) or "it needs either a command or a url"
            self.notes.append(f"'{written}' was left out: {faults}.")
            return None
        return table

    def translated(self, written: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        url = entry.get("url") or entry.get("serverUrl") or entry.get("httpUrl")
        kind = str(entry.get("type") or entry.get("transport") or "").lower()
        enabled = not entry.get("disabled", False) and entry.get("enabled", True) is not False
        return {
            "command": None if url else self.plain(written, name, entry.get("command")),
            "args": None if url else self.arguments(written, name, entry.get("args") or []),
            "env": None if url else self.by_name(written, name, "env", entry.get("env") or {}),
            "cwd": None if url else self.plain(written, name, entry.get("cwd")),
            "url": self.address(written, name, url) if url else None,
            "headers": self.by_name(written, name, "headers", entry.get("headers") or entry.get("http_headers") or {})
            if url
            else None,
            "type": "sse" if url and kind == "sse" else None,
            "enabled": None if enabled else False,
            "call_timeout": _seconds(entry.get("timeout") or entry.get("tool_timeout_sec")),
            "connect_timeout": _seconds(entry.get("connect_timeout") or entry.get("startup_timeout_sec")),
            "tools": _tools(entry),
        }

    def plain(self, written: str, name: str, value: Any) -> Any:
        return self.placeholders(written, name, value) if isinstance(value, str) else value

    def by_name(self, written: str, name: str, key: str, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(inner): self.named_value(written, name, key, str(inner), value) for inner, value in values.items()}

    def named_value(self, written: str, name: str, key: str, inner: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        if "${" in text or not text:
            return self.placeholders(written, name, text)
        if not (_SECRET_NAME.search(inner) or _SECRET_VALUE.search(text)):
            return text
        wanted = inner if key == "env" else f"{name}_{inner}"
        scheme, blank, rest = text.partition(" ")
        if key == "headers" and blank and scheme.lower() in {"bearer", "basic", "token"}:
            return f"{scheme} {self.moved(written, name, wanted, rest, f'{key}.{inner}')}"
        return self.moved(written, name, wanted, text, f"{key}.{inner}")

    def arguments(self, written: str, name: str, args: Any) -> Any:
        if not isinstance(args, list):
            return args
        result: list[Any] = []
        option = ""
        for place, value in enumerate(args):
            text = value if isinstance(value, str) else json.dumps(value)
            result.append(self.argument(written, name, place, text, option))
            match = _OPTION.fullmatch(text)
            option = match[1] if match and match[2] is None else ""
        return result

    def argument(self, written: str, name: str, place: int, text: str, option: str) -> str:
        """One argument; `option` is the one before it, if that was an option without a value."""
        at, match = f"args[{place}]", _OPTION.fullmatch(text)
        if "${" in text:
            return self.placeholders(written, name, text)
        if match and match[2] and _SECRET_NAME.search(match[1]):
            return f"{match[1]}={self.moved(written, name, f'{name}_{match[1]}', match[2], at)}"
        if match is None and option and _SECRET_NAME.search(option):
            return self.moved(written, name, f"{name}_{option}", text, at)
        if _SECRET_VALUE.search(text):
            return _SECRET_VALUE.sub(lambda found: self.moved(written, name, f"{name}_secret", found[0], at), text)
        return self.address(written, name, text, at) if "://" in text else text

    def address(self, written: str, name: str, url: Any, at: str = "url") -> Any:
        if not isinstance(url, str):
            return url

        def parameter(found: re.Match[str]) -> str:
            if not (_SECRET_NAME.search(found["name"]) or _SECRET_VALUE.search(found["value"])):
                return found[0]
            return found["before"] + self.moved(written, name, f"{name}_{found['name']}", found["value"], at)

        def password(found: re.Match[str]) -> str:
            return found["before"] + self.moved(written, name, f"{name}_password", found["value"], at)

        return self.placeholders(written, name, _URL_PASSWORD.sub(password, _URL_SECRET.sub(parameter, url)))

    def moved(self, written: str, name: str, wanted: str, value: str, at: str) -> str:
        """A reference to the variable that is to hold `value` from now on."""
        variable = _variable_name(wanted)
        if self.values.get(variable, value) != value:
            variable = _variable_name(f"{name}_{wanted}")
        self.values[variable] = value
        self.found.setdefault(variable, f"{self.place}.{written}.{at} in {self.source}")
        return self.uses(name, variable)

    def uses(self, name: str, variable: str) -> str:
        users = self.users.setdefault(variable, [])
        if name not in users:
            users.append(name)
        return f"${{env:{variable}}}"

    def placeholders(self, written: str, name: str, text: str) -> str:
        """`${input:x}`, `${VAR}`, `${userHome}` and `${workspaceFolder}` in our words."""

        def ours(found: re.Match[str]) -> str:
            inside = found[1]
            if inside.startswith("input:"):
                variable = _variable_name(inside.removeprefix("input:"))
                self.found.setdefault(variable, "VS Code asked you for it")
                return self.uses(name, variable)
            if inside == "userHome":
                return str(Path.home())
            if inside in {"workspaceFolder", "workspaceRoot"}:
                return str(_workspace(self.source))
            if variable_match := _SHELL_VARIABLE.fullmatch(inside):
                return self.shell_variable(written, name, variable_match)
            self.notes.append(f"'{written}': {found[0]} has no meaning here; replace it.")
            return found[0]

        return _PLACEHOLDER.sub(ours, text)

    def shell_variable(self, written: str, name: str, found: re.Match[str]) -> str:
        if found[2]:
            self.notes.append(f"'{written}': the default in ${{{found[1]}:-…}} was dropped; {found[1]} has to be set.")
        self.found.setdefault(found[1], "in the environment, as before")
        return self.uses(name, found[1])

    def variables(self, servers: set[str]) -> tuple[Variable, ...]:
        """The variables that `servers` read."""
        used = ((name, tuple(user for user in self.users[name] if user in servers)) for name in sorted(self.users))
        return tuple(
            Variable(name=name, servers=users, found_at=self.found[name], is_set=name in self.environment)
            for name, users in used
            if users
        )


def _variable_name(wanted: str) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", wanted).strip("_").upper()
    return f"_{name}" if name[:1].isdigit() else name or "SECRET"


def _workspace(source: Path) -> Path:
    return source.parent.parent if source.parent.name in {".vscode", ".cursor"} else source.parent


def _seconds(value: Any) -> str | None:
    """Some programs write seconds, some milliseconds; from 1200 on it can only be the latter."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return None
    return f"{value / 1000:g}s" if value >= 1200 else f"{value:g}s"


def _tools(entry: Mapping[str, Any]) -> dict[str, Any]:
    given = entry.get("tools")
    tools: Mapping[str, Any] = given if isinstance(given, dict) else {}
    allow = tools.get("include") or tools.get("allow") or entry.get("enabled_tools") or entry.get("includeTools")
    deny = (
        tools.get("exclude")
        or tools.get("deny")
        or entry.get("disabled_tools")
        or entry.get("excludeTools")
        or entry.get("disabledTools")
    )
    found = {"allow": allow, "deny": deny}
    return {key: list(value) for key, value in found.items() if isinstance(value, list) and value}


# -- writing ours


def _text_of(target: Path) -> str:
    try:
        return target.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as problem:
        raise UsageError(f"{target} cannot be read: {problem.strerror}.") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{target} is not UTF-8 text, which TOML has to be.") from problem


def _present_servers(target: Path, text: str) -> dict[str, Any]:
    try:
        present = tomllib.loads(text).get("servers", {})
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"{target} is no TOML: {problem}; nothing was imported.", hint="correct it first") from problem
    return present if isinstance(present, dict) else {}


def _appended(target: Path, before: str, added: Mapping[str, Mapping[str, Any]]) -> str:
    """`before` with the new tables at its end, checked to say just that."""
    after = before + ("\n" if before.strip() else "") * (1 if before.endswith("\n") else 2) + _tables_text(added)
    expected = tomllib.loads(before)
    expected["servers"] = {**expected.get("servers", {}), **added}
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(
            f"{target} cannot take further servers: it writes servers = {{ … }} in one line; nothing was imported.",
            hint="write each of them as a table, [servers.NAME], and import again",
        ) from problem
    if found != expected:
        raise SextonError(f"{target} would say something else after the import, so nothing was imported.")
    return after


def _tables_text(added: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(f"[servers.{name}]\n{_table_text(table)}" for name, table in added.items())


def _table_text(table: Mapping[str, Any]) -> str:
    document = tomlkit.document()
    for key, value in table.items():
        document.add(key, _inline(value))
    return tomlkit.dumps(document)


def _inline(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inline = tomlkit.inline_table()
    inline.update({key: _inline(inner) for key, inner in value.items()})
    return inline


def _replace(target: Path, text: str) -> None:
    target = target.resolve()
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, text, mode=mode, durable=True)
    except OSError as problem:
        raise SextonError(f"{target} cannot be written: {problem.strerror}; nothing was imported.") from problem
