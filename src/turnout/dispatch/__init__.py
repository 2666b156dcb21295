"""Dispatch: walk a plan, relay the answer, record what happened.

Reads: core, config, tiers, routing.  Start with dispatcher.py; relay.py copies bytes, breaker.py remembers the dead.
"""
