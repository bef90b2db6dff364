"""Helpers of all packages: trees and paths, tables as text, dtypes of sums.

Nothing here knows of sparsity, and no package stands below this one.
"""
