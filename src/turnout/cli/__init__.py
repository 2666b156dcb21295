"""The command line: one file a command, imported when it is used. It talks to the daemon over HTTP only.

Reads: client for the daemon, config and tiers for what needs none.  Start with main.py; group.py lists the commands.
"""
