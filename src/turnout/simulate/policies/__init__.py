"""Schedulers of other programs, rebuilt behind ``messages.Scheduler`` so that they can be compared with ours.

Each says at its top which program, file and commit it follows, and what was left out.
"""
