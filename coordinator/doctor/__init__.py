"""`coordinator doctor`: what keeps this machine from a run, and what to do about it.

A check imports what it needs itself: a package that is missing must not keep the other checks from running.
"""
