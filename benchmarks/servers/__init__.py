"""Servers that the benchmarks start. Each file is a program of its own that imports the standard library only."""
