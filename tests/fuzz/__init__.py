"""Fuzzing what strangers' bytes reach: the server, the client of engines, and the reading of request bodies.

Each target is one function of bytes that raises when an invariant breaks; `drive.py` feeds it for a while, with atheris
(libFuzzer, guided by coverage) where that is installed and with `mutator.py` elsewhere. Read first: server_wire.py.
"""
