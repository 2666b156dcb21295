"""Model files: where they come from, how they are fetched, kept and checked.

source.py reads a source and finds its file, pull.py fetches (package.py from an index, hub.py from the hub), store.py
keeps what was fetched, check.py verifies it in a worker. Reads: core.  Start with source.py.
"""
