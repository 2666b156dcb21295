"""The simulated engine: a real server with invented text and exact timing.

engine.py is the daemon's side, worker.py the process, ../timing.py the pure model that both the process and the
simulator follow. Reads: what turnout.tiers.local reads.  Start with spec.py.
"""
