"""Which versions of which models run: policy, states, loading and swapping.

Knows no scheduling and no runtime: what a version becomes is made by the loader it is given.
"""
