"""The embedded engine: llama.cpp in a worker process. engine.py is the daemon's side, worker.py the process.

Reads: what turnout.tiers.local reads.  Start with spec.py.
"""
