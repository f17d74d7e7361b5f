"""The first `sexton.toml`: what `sexton init` writes.  It works at once, on this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sexton.errors import SextonError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Launchers:
    """Which launchers of MCP servers this machine has."""

    uvx: bool
    npx: bool

    @classmethod
    def here(cls) -> Launchers:
        return cls(uvx=shutil.which("uvx") is not None, npx=shutil.which("npx") is not None)


def starter_text(launchers: Launchers) -> str:
    """A commented `sexton.toml`.  A server whose launcher is missing here stands in it as a comment, with its job."""
    time = _TIME if launchers.uvx else _commented(_TIME, "needs uvx: https://docs.astral.sh/uv/")
    notes = _NOTES if launchers.npx else _commented(_NOTES, "needs npx: https://nodejs.org/")
    return f"{_HEAD}\n{time}\n{notes}\n{_TAIL}"


def write_starter(path: Path, *, launchers: Launchers | None = None) -> Path:
    """Write the first settings file to `path` (a folder: `sexton.toml` in it); never over one that is there."""
    target = path / "sexton.toml" if path.is_dir() else path
    text = starter_text(launchers or Launchers.here())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL: two that are started at once do not write over each other either.
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    except FileExistsError as problem:
        raise UsageError(
            f"{target} exists already; it was left as it is.",
            hint="start with it: sexton up; or name another place: sexton init PATH",
        ) from problem
    except OSError as problem:
        raise SextonError(
            f"{target} cannot be written: {problem.strerror}.", hint="name another place: sexton init PATH"
        ) from problem
    return target


def _commented(text: str, reason: str) -> str:
    return f"# ({reason})\n" + "".join(f"# {line}\n" if line else "#\n" for line in text.splitlines())


_HEAD = """\
# Settings of sexton.  Start it:          sexton up
# A change is picked up while it runs; a mistake changes nothing and is shown with its line.
#
# Durations: "500ms", "30s", "10m", "1h30m", "2d".   Sizes: "64KiB", "512MiB".
# Secrets do not stand here: "${env:NAME}" reads an environment variable, "${file:~/.secret}" a file.

# listen = "127.0.0.1:7390"          # where the command line finds it
# timezone = "Europe/Amsterdam"      # of the jobs; default UTC
# concurrency = 16                   # runs at once
# drain_timeout = "20s"              # how long a stop waits for running jobs


# MCP servers.  One starts when it is first needed, is shared by all who use it,
# and is stopped, with everything that it started, when nobody has used it for a while.
# Bring those of another program:    sexton servers import ~/.cursor/mcp.json
"""

_TIME = """\
[servers.time]
command = "uvx"
args = ["mcp-server-time"]
idle_timeout = "10m"

[jobs.clock]
every = "30s"
call = "time.get_current_time"       # SERVER.TOOL; which there are: sexton servers tools time
arguments = { timezone = "Europe/Amsterdam" }
"""

_NOTES = """\
[servers.everything]
command = "npx"
args = ["-y", "@modelcontextprotocol/server-everything"]
# env = { TOKEN = "${env:MY_TOKEN}" }
# sharing = "exclusive"              # one process for each who uses it, e.g. a browser
# tools = { deny = ["get-env"] }    # or allow = ["echo"]

[jobs.greeting]
every = "45s"
call = "everything.echo"
arguments = { message = "hello" }
timeout = "2m"                       # really ends the call, and whatever it started
"""

_TAIL = """\
# A job can also run a program.  In its time zone, with or without seconds:
[jobs.uptime]
every = "20s"
command = ["uptime"]

[jobs.nightly]
cron = "30 2 * * *"                  # or "@daily", or with seconds: "*/15 * * * * *"
command = ["sh", "-c", "df -h / | tail -1"]
timeout = "5m"
overlap = "skip"                     # or "queue", "replace", "parallel"
catch_up = "latest"                  # what was missed while the machine was off: "none", "latest", "all"
retries = 2
# paused = true

# Who is told how a job ended: deliver = ["log", "telegram:me"] in its table.  See docs/deliveries.md.
# [targets.log]
# path = "jobs.log"
# [targets.hook]
# url = "https://example.org/sexton"
# secret = "${env:HOOK_SECRET}"

# Talk to the agent, and be told, on telegram, discord, slack, matrix, irc or by email.  See docs/channels.md.
# [channels.telegram]
# token = "${env:TELEGRAM_TOKEN}"
# names = { me = "123456789" }
# allow = ["me"]

# [jobs.once]
# at = "2026-12-24 18:00"            # or "start + 5s"
# command = ["echo", "merry christmas"]

# With a model, a job can be a prompt, and there is: sexton chat
# [models.main]
# provider = "openai"                # or "anthropic", "ollama", "openrouter"; base_url for others
# model = "gpt-5-mini"
# api_key = "${env:OPENAI_API_KEY}"

# [jobs.brief]
# cron = "0 7 * * mon-fri"
# prompt = "What time is it in Tokyo, and who there would I wake up by calling now?"
# servers = ["time"]
"""
