"""Functions that are compiled once, or the test fails."""

import chex
import jax


def once(fn, **options):
  """`jax.jit(fn, **options)` for a function that may be traced only once."""
  # Chex counts by a function's source, and tests call this in loops.
  chex.clear_trace_counter()
  return jax.jit(chex.assert_max_traces(fn, n=1), **options)
