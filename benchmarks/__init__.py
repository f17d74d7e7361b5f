"""What we claim about Sexton, as commands that measure it next to its peers.

Each module is one command, `python -m benchmarks.NAME`, that prints a table; `make bench` runs them all. A figure
always stands beside that of a peer or a bare baseline from the same run on the same machine, and is a median with its
lowest and highest value. `docs/benchmarks.md` quotes them. Peers are installed into `.peers/` (see `peers`), never into
`.venv/`.
"""
