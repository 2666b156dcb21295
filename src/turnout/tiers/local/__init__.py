"""The local tier: engines and worker processes on this machine.

Reads: core, config.  Start with worker.py (the protocol); timing.py is the pure model behind simulated/.
"""
