"""What `import sexton` offers to other programs, and what it costs those that do not use it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import mcp
import pytest
from mcp.client.stdio import stdio_client

import sexton


def test_the_signature_is_the_sdks() -> None:
    ours, theirs = (inspect.signature(each).parameters for each in (sexton.stdio_client, stdio_client))
    assert [(one.name, one.default, one.kind) for one in ours.values()] == [
        (one.name, one.default, one.kind) for one in theirs.values()
    ]
    assert sexton.StdioServerParameters is mcp.StdioServerParameters


def test_nothing_heavy_is_loaded_before_it_is_named() -> None:
    code = "import sys, sexton; assert 'mcp' not in sys.modules; sexton.stdio_client; assert 'mcp' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sexton.nonsense
