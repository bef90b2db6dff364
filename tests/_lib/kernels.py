"""What tests of the axes of kernels share."""

import jax
import jax.numpy as jnp

import jaxsparse

N, D = 2, 8


def masks_of(params, *args, **options):
  """Masks of `prune`, compiled as one."""
  rule = jaxsparse.prune(*args, **options)
  return jax.jit(lambda params: rule.init(params).masks)(params)


def two(p, x):
  return jnp.tanh(x @ p['in']['kernel']) @ p['out']['kernel']


TWO = {'in': {'kernel': (8, 12)}, 'out': {'kernel': (12, 4)}}
