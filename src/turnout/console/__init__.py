"""The operator's side: the API under /turnout/v1, the status page, the terminal's lines, the log.

Reads: everything below it.  Start with api.py.
"""
