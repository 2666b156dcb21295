"""The words of turnout as frozen types: requests, targets, plans, traces, events, errors.

Reads: the standard library and msgspec, nothing else of turnout.  Start with words.py; errors.py draws the error tree.
"""
