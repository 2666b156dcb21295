"""turnout: one daemon that guides every AI request onto the right compute.

Importing this package costs nothing: everything else is imported where it is used.
Start reading at ARCHITECTURE.md, then gateway/routes.py.
"""

__version__ = "0.1.0"
