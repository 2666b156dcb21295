"""Measurements that anybody can repeat: `make bench`. Each prints a table and writes JSON into benchmarks/results."""
