"""What is asked: recorded or invented arrivals, as columns.

``arrivals.py`` is what all of them become; ``reading.py`` finds out which kind a file is.
"""
