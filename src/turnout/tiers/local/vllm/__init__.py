"""vLLM, the user's own program or its container: started, sized, put to sleep, woken, watched and stopped.

Reads: what turnout.tiers.local reads.  Start with settings.py and command.py (pure); engine.py is the daemon's side.
"""
