"""Helpers of all packages: trees, checks of arguments, tables, dtypes of sums.

Nothing here knows of sparsity, and no package stands below this one.
"""
