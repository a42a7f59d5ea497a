"""`coordinator doctor`: what stands between this machine and a run, each with what to do about it.

A check is a function of a `Subject` that yields findings. `findings` has both words, `examine` the list of all checks;
each of the other modules holds the checks of one matter. A check imports what it needs itself: a package that is
missing must not keep the others from being heard.
"""
