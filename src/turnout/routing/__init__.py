"""Routing: from the facts of a request and a snapshot of the world to a plan. Pure: no I/O, no clock.

Reads: core only.  Start with policy.py; names.py reads the caller's ``model`` value, chains.py orders the targets.
"""
