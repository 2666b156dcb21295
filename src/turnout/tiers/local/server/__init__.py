"""Engines that are somebody else's HTTP server, which turnout starts, watches and stops.

A keeper process of ours (worker.py) stands between the daemon and the server: it speaks the worker protocol upwards and
holds the server, or its container, downwards, so that nothing outlives the daemon by accident.
Reads: what turnout.tiers.local reads.  Start with spec.py, then keeper.py; engine.py is the daemon's side.
"""
