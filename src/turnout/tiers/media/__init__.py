"""Programs that make pictures, sound and shapes: for now they share the memory; their own APIs come later.

Reads: core, config, tiers.base.  Start with queue_lease.py, which is pure; comfyui.py acts.
"""
