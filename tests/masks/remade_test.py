"""Arrays that loops make again, and do not hold."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.masks.remade import jitted_outside
from jaxsparse.masks.remade import Remade


def test_a_call_gives_what_the_function_returns():
  x = jnp.arange(4.)
  made = Remade(lambda: [x + 1., -x])
  assert not made.traced  # Nothing is being traced: they are there.
  assert [s.shape for s in made.shapes] == [(4,), (4,)]
  for got in (made(), made.within(x)[0]):
    np.testing.assert_array_equal(got[0], x + 1.)
    np.testing.assert_array_equal(got[1], -x)


def test_some_of_the_arrays_and_another_dtype():
  @jax.jit
  def f(x):
    made = Remade(lambda: [x, 2. * x, 3. * x])
    assert made.traced
    return made.some([2, 1])(), made.astype(jnp.bfloat16)()
  some, narrow = f(jnp.arange(3.))
  np.testing.assert_array_equal(some, [[0., 3., 6.], [0., 2., 4.]])
  assert {x.dtype for x in narrow} == {jnp.dtype(jnp.bfloat16)}


def _temporaries(again):
  """Of a loop over magnitudes, in sizes of the array."""
  def f(x):
    made = Remade(lambda: [jnp.abs(x)])
    held = jnp.abs(x)

    def body(carry):
      i, total = carry
      if again:
        (y,), i = made.within(i)
      else:
        y = held
      part = (y >= i.astype(y.dtype)).reshape(-1, 16, 1024)
      return i + 1, total + part.sum(1, dtype=jnp.uint8).max()
    return lax.while_loop(lambda c: c[0] < 5, body,
                          (jnp.int32(0), jnp.uint8(0)))[1]
  x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
  memory = jax.jit(f).lower(x).compile().memory_analysis()
  return memory.temp_size_in_bytes / (4 * 1024**2)


def test_a_loop_holds_nothing():
  assert _temporaries(again=True) < 0.1
  assert _temporaries(again=False) >= 1.  # The check can fail.


def test_outside_of_jit_a_function_is_one_program_and_inside_a_part():
  traced = []

  @jitted_outside(1)
  def scaled(xs, factor):
    traced.append(xs.traced)
    return [factor * x for x in xs()]
  x = jnp.arange(3.)
  for _ in range(2):
    np.testing.assert_array_equal(scaled(Remade(lambda: [x]), 2.)[0], 2. * x)
  assert traced == [True]  # Once, as a program.
  inside = jax.jit(lambda x: scaled(Remade(lambda: [x + 1.]), 2.)[0])
  np.testing.assert_array_equal(inside(x), 2. * (x + 1.))
  assert traced == [True, True]
