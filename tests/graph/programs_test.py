"""Programs that are equal compute the same, and others are not equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import segments

X = np.ones((3, 4), np.float32)


def program(f):
  """Of what comes between two kernels."""
  chain = segments.chain(
      lambda p, x: f(x @ p['a']) @ p['b'],
      {'a': np.ones((4, 4), np.float32), 'b': np.ones((4, 4), np.float32)}, X,
      kernels=['a', 'b'])
  return chain.segments[0].rest, chain.segments[1].measured


ALIKE = [
    lambda x: jnp.sin(x), lambda x: 2. * x, lambda x: 3. * x,
    lambda x: x.sum(0, keepdims=True) * x,
    lambda x: x.sum(1, keepdims=True) * x,
    jax.nn.relu, jax.nn.gelu, lambda x: x @ X.T @ X,
    lambda x: jax.lax.fori_loop(0, 2, lambda i, x: x + 1., x),
    lambda x: jax.lax.fori_loop(0, 2, lambda i, x: x + 2., x)]


@pytest.mark.parametrize('i', range(len(ALIKE)))
def test_what_is_traced_twice_is_one_program_and_no_other(i):
  mine, again = program(ALIKE[i]), program(ALIKE[i])
  assert mine == again and [*map(hash, mine)] == [*map(hash, again)]
  for j, other in enumerate(ALIKE):
    assert i == j or program(other) != mine


def test_arrays_closed_over_are_read_and_not_part_of_a_program():
  def loop(table):
    return lambda x: jax.lax.fori_loop(0, 2, lambda i, x: x + table, x)
  one, other = (program(loop(jnp.full((3, 4), n))) for n in (1., 2.))
  assert one == other
