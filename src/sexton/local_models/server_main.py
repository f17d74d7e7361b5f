"""A model's server: llama.cpp, as the package xllamacpp carries it.  Run as a program, alone in its process.

It reads one line of JSON from stdin, writes one to stdout when it serves, and
ends when stdin does: whoever holds the other end holds this process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> int:
    """Serve until stdin ends.  Exit status 1 with a line on stderr if the model cannot be loaded."""
    order = json.loads(sys.stdin.buffer.readline())
    report = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the library writes where it likes
    try:
        server = _load(order)
    except (ImportError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        return 1
    os.write(report, json.dumps({"url": server.listening_address}).encode() + b"\n")
    os.close(report)
    sys.stdin.buffer.read()
    os._exit(0)  # not the library's own way out: it waits for answers that nobody wants any more


def _load(order: dict[str, Any]) -> Any:
    import xllamacpp  # noqa: PLC0415 - so that its absence is told in words

    params = xllamacpp.CommonParams()
    params.model.path = order["file"]
    params.model_alias = {order["name"]}
    params.n_parallel = order["slots"]
    params.n_ctx = order["context"] * order["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    params.cpuparams.poll = params.cpuparams_batch.poll = 0  # no thread spins while it waits: others need the cores
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["key"]]
    params.cache_ram_mib = order["cache_mib"]
    params.ui = params.endpoint_props = False
    params.warmup = False
    params.sse_ping_interval = 15
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
