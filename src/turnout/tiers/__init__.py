"""Tiers: where a model can run, and what it takes to have it run there.

Reads: core, config.  Start with local/worker.py, the protocol of a worker process.
"""
