"""Helpers of all packages: trees, checks of arguments, tables, dtypes of sums.

No helper knows about sparsity, and this package imports no other one.
"""
