"""The simulator: the real scheduler on virtual time, and those of others for comparison.

Reads: scheduler, tiers.local.timing, config, core.  Start with world.py (the heap of events); profile.py says what
there is, traces/ what is asked, policies/ who else decides, report.py and page.py what came of it.
"""
