"""Programs that the benchmarks run as hosts of servers: the same scenario once on Sexton and once on each peer.

Each file is a program that must also run in a peer's environment, where neither `sexton` nor `benchmarks` is installed;
so it imports what it measures by name, late, and nothing of ours.
"""
