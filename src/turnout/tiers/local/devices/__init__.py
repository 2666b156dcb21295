"""The memory of this machine: which devices there are, how large they are, and what is in use on them now.

Reads: what turnout.tiers.local reads.  Start with base.py; find.py chooses the readers.
"""
