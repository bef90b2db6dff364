"""How many units each weight keeps under a distribution."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.masks import selection
from jaxsparse.patterns import unstructured

PROGRESS = (0., .1, .37, .5, .9, 1.)


def integer(count):
  return int(count.hi) * 2**16 + int(count.lo)


def counts_of(kept):
  """The kept units of each group, leaf by leaf."""
  is_kept = lambda k: isinstance(k, selection.Kept)
  return [integer(k.count) for k in jax.tree.leaves(kept, is_leaf=is_kept)]


def shares(distribution, shapes, patterns_=None, progress=1.):
  """Kept units of weights of these shapes."""
  patterns_ = patterns_ or [unstructured()] * len(shapes)
  scores = [jnp.zeros(shape) for shape in shapes]
  return counts_of(distribution(scores, patterns_, progress))


def shares_under_way(distribution, shapes, patterns_=None):
  """The same at every one of `PROGRESS`, traced."""
  patterns_ = patterns_ or [unstructured()] * len(shapes)
  scores = [jnp.zeros(shape) for shape in shapes]
  run = jax.jit(lambda progress: [
      k.count for k in distribution(scores, patterns_, progress)])
  return [[integer(c) for c in run(jnp.float32(p))] for p in PROGRESS]


def on_the_way(n, final, progress):
  """round(n - p * (n - k)), halves to even, of a progress in float32."""
  return round(n - Fraction(float(np.float32(progress))) * (n - final))
