"""Speaks the encoding that its argument names; its one answer holds the text that it was sent."""

from __future__ import annotations

import json
import sys

encoding = sys.argv[1]
stdin = open(0, encoding=encoding, newline="\n")  # noqa: SIM115
stdout = open(1, "w", encoding=encoding, newline="\n")  # noqa: SIM115
for line in stdin:
    message = json.loads(line)
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"echo": message["params"]["text"]}}
    stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    stdout.flush()
