"""Servers of other programs, brought into sexton.toml."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from sexton.daemon.server_import import import_servers
from sexton.errors import SextonError, UsageError

PRESENT = """\
# mine
listen = "127.0.0.1:7390"   # keep this comment

[servers.time]
command = "uvx"
args = ["mcp-server-time"]

[jobs.clock]
every = "30s"     # and this
call = "time.get_current_time"
"""

CLAUDE = {
    "mcpServers": {
        "github": {
            "command": "npx",
            "args": [
                "-y",
                "@modelcontextprotocol/server-github",
                "--api-key",
                "plain-secret-1",
                "--token=plain-secret-2",
            ],
            "env": {
                "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_abcdefghijklmnopqrstuvwxyz",
                "LOG": "debug",
                "EMPTY_TOKEN": "",
            },
        },
        "postgres": {"command": "npx", "args": ["-y", "server-postgres", "postgresql://ada:hunter22@localhost/db"]},
        "remote": {
            "url": "https://example.org/mcp?api_key=abc123secret&x=1",
            "headers": {"Authorization": "Bearer xyz-secret"},
        },
        "my notes!": {"command": "notes", "disabled": True, "alwaysAllow": ["read"], "colour": "red"},
    }
}
SECRETS = ("plain-secret", "ghp_", "hunter22", "abc123secret", "xyz-secret")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "sexton.toml"
    path.write_text(PRESENT)
    path.chmod(0o640)
    return path


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_claude_desktop_is_taken_over_with_its_secrets_left_behind(tmp_path: Path, target: Path) -> None:
    report = import_servers(
        write(tmp_path / "claude_desktop_config.json", CLAUDE), target, environment={"GITHUB_TOKEN": "x"}
    )
    text = target.read_text()
    servers = tomllib.loads(text)["servers"]

    assert text.startswith(PRESENT)
    assert target.stat().st_mode & 0o777 == 0o640
    assert report.added == ("github", "postgres", "remote", "my-notes")
    assert dict(report.renamed) == {"my notes!": "my-notes"}
    assert servers["github"] == {
        "command": "npx",
        "args": [
            "-y",
            "@modelcontextprotocol/server-github",
            "--api-key",
            "${env:GITHUB_API_KEY}",
            "--token=${env:GITHUB_TOKEN}",
        ],
        "env": {
            "GITHUB_PERSONAL_ACCESS_TOKEN": "${env:GITHUB_PERSONAL_ACCESS_TOKEN}",
            "LOG": "debug",
            "EMPTY_TOKEN": "",
        },
    }
    assert servers["postgres"]["args"][-1] == "postgresql://ada:${env:POSTGRES_PASSWORD}@localhost/db"
    assert servers["remote"] == {
        "url": "https://example.org/mcp?api_key=${env:REMOTE_API_KEY}&x=1",
        "headers": {"Authorization": "Bearer ${env:REMOTE_AUTHORIZATION}"},
    }
    assert servers["my-notes"] == {"command": "notes", "enabled": False}
    assert {variable.name: variable.is_set for variable in report.variables} == {
        "GITHUB_API_KEY": False,
        "GITHUB_PERSONAL_ACCESS_TOKEN": False,
        "GITHUB_TOKEN": True,
        "POSTGRES_PASSWORD": False,
        "REMOTE_API_KEY": False,
        "REMOTE_AUTHORIZATION": False,
    }
    assert "colour" in report.text()
    assert "mcpServers.github.env.GITHUB_PERSONAL_ACCESS_TOKEN" in report.text()
    assert not any(secret in text + report.text() + repr(report) for secret in SECRETS)


def test_vs_code_with_comments_inputs_and_trailing_commas(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / ".vscode" / "mcp.json",
        """{
          // what VS Code asks for
          "inputs": [{"type": "promptString", "id": "perplexity-key", "password": true},],
          "servers": {
            "perplexity": { "type": "stdio", "command": "npx", "args": ["-y", "server-perplexity-ask"],
              "env": { "PERPLEXITY_API_KEY": "${input:perplexity-key}" } },
            /* over HTTP, // and this is no comment in a string */
            "docs": { "type": "http", "url": "https://example.org/mcp//x", },
            "files": { "command": "npx", "args": ["server-filesystem", "${workspaceFolder}/src"], },
          },
        }""",
    )
    report = import_servers(source, target, environment={})
    servers = tomllib.loads(target.read_text())["servers"]
    assert servers["perplexity"]["env"] == {"PERPLEXITY_API_KEY": "${env:PERPLEXITY_KEY}"}
    assert servers["docs"] == {"url": "https://example.org/mcp//x"}
    assert servers["files"]["args"] == ["server-filesystem", f"{tmp_path}/src"]
    assert [variable.name for variable in report.variables] == ["PERPLEXITY_KEY"]


def test_hermes_yaml(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / "config.yaml",
        """
model: x
mcp_servers:
  mempalace:
    command: python
    args: ["-m", "mempalace.mcp_server"]
    timeout: 120
    connect_timeout: 60
    tools: {include: [search, add], exclude: []}
  linear:
    url: https://mcp.linear.app/mcp
    headers: {Authorization: "Bearer ${LINEAR_KEY}"}
""",
    )
    import_servers(source, target, environment={})
    servers = tomllib.loads(target.read_text())["servers"]
    assert servers["mempalace"] == {
        "command": "python",
        "args": ["-m", "mempalace.mcp_server"],
        "call_timeout": "120s",
        "connect_timeout": "60s",
        "tools": {"allow": ["search", "add"]},
    }
    assert servers["linear"]["headers"] == {"Authorization": "Bearer ${env:LINEAR_KEY}"}


def test_codex_toml(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / "config.toml", '[mcp_servers.docs]\ncommand = "npx"\nargs = ["docs"]\nstartup_timeout_sec = 20\n'
    )
    import_servers(source, target)
    assert tomllib.loads(target.read_text())["servers"]["docs"] == {
        "command": "npx",
        "args": ["docs"],
        "connect_timeout": "20s",
    }


def test_the_same_again_changes_nothing_and_another_definition_is_a_clash(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / "mcp.json",
        {"mcpServers": {"time": {"command": "other"}, "new": {"command": "new", "env": {"A_TOKEN": "v"}}}},
    )
    first = import_servers(source, target, environment={})
    after = target.read_bytes()
    second = import_servers(source, target, environment={})
    assert (first.added, first.clashes) == (("new",), ("time",))
    assert (second.added, second.already_there, second.clashes) == ((), ("new",), ("time",))
    assert target.read_bytes() == after
    assert "'time' stands there already" in first.text()


def test_two_servers_with_the_same_variable_and_other_values_get_one_each(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / "mcp.json",
        {
            "mcpServers": {
                "a": {"command": "a", "env": {"API_KEY": "one"}},
                "b": {"command": "b", "env": {"API_KEY": "two"}},
                "c": {"command": "c", "env": {"API_KEY": "one"}},
            }
        },
    )
    import_servers(source, target, environment={})
    servers = tomllib.loads(target.read_text())["servers"]
    assert [servers[name]["env"]["API_KEY"] for name in "abc"] == [
        "${env:API_KEY}",
        "${env:B_API_KEY}",
        "${env:API_KEY}",
    ]


def test_a_dry_run_and_a_missing_target(tmp_path: Path) -> None:
    source, target = write(tmp_path / "mcp.json", CLAUDE), tmp_path / "new" / "sexton.toml"
    planned = import_servers(source, target, dry_run=True, environment={})
    assert planned.added
    assert "would get 4 servers" in planned.text()
    assert not target.exists()
    assert "got 4 servers" in import_servers(source, target, environment={}).text()
    assert target.stat().st_mode & 0o777 == 0o600
    assert set(tomllib.loads(target.read_text())["servers"]) == {"github", "postgres", "remote", "my-notes"}


def test_entries_that_cannot_be_used_are_left_out_and_named(tmp_path: Path, target: Path) -> None:
    source = write(
        tmp_path / "mcp.json",
        {
            "mcpServers": {
                "a": "text",
                "b": {"args": ["x"]},
                "c": {"command": 5},
                "d": {"command": "d", "args": "x"},
                "ok": {"command": "ok"},
            }
        },
    )
    report = import_servers(source, target)
    assert report.added == ("ok",)
    assert [note.split()[0] for note in report.notes] == ["'a'", "'b'", "'c'", "'d'"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mcp.json", '{\n  "mcpServers": {,}\n}', r"mcp.json:2: is no JSON"),
        ("mcp.json", "{}", "holds no MCP servers"),
        ("mcp.json", "[]", "holds no MCP servers"),
        ("config.yaml", "a: [1", "is no YAML"),
        ("config.toml", "a = ", "is no TOML"),
    ],
)
def test_a_source_that_cannot_be_used_changes_nothing(
    tmp_path: Path, target: Path, name: str, content: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        import_servers(write(tmp_path / name, content), target)
    assert target.read_text() == PRESENT


@pytest.mark.parametrize("before", ["servers = {}\n", "[servers\n", "servers.x.command = 'x'\nservers = 1\n"])
def test_a_target_that_cannot_take_them_is_left_as_it_is(tmp_path: Path, target: Path, before: str) -> None:
    target.write_text(before)
    with pytest.raises(UsageError):
        import_servers(write(tmp_path / "mcp.json", CLAUDE), target)
    assert target.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mcp.json", "sexton.toml"]


def test_a_target_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SextonError, match="cannot be written"):
        import_servers(write(tmp_path / "mcp.json", CLAUDE), Path("/proc/sexton/sexton.toml"))
