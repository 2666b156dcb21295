"""Profiles: what a shape of the card means on a certain card, and the same shape as a compose file.

Reads: core, config, tiers.  Start with planner.py, which is pure; gather.py reads configuration and disk for it.
"""
