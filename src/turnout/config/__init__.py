"""Configuration: one optional YAML file, checked once at the edge, with the origin of every value.

Reads: core.  Start with schema.py (what can be set), then loader.py (where it comes from).
"""
