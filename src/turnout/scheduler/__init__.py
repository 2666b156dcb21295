"""Scheduling: which model may be on the card now, and what has to move first.

Reads: core, config, tiers.base.  Start with decide.py; loop.py and effects.py are the only files with effects.
"""
