"""Lines: what is inlined, what stays one step, and what is known of arrays."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.graph import segments
from jaxsparse.graph import taps
from jaxsparse.graph._lines import Line
from jaxsparse.graph._programs import Leaf

W = np.ones((3, 4, 4), np.float32)
X = np.ones((2, 4), np.float32)


def line(fn, *, w=W, kernels=('w',)):
  closed = jax.make_jaxpr(fn)(w, X)
  made = Line(kernels)

  def read(w, x):
    tag = taps.Tag(Leaf('w'), tuple(((k,),) for k in range(w.ndim)))
    made.inline(closed, [made.add(w, tag), made.add(x, taps.DATA)])
    return 0
  jax.eval_shape(read, w, X)
  return made


def names(made):
  return [step.eqn.primitive.name for step in made.steps]


def test_calls_are_inlined_where_a_parameter_is_in_them():
  made = line(jax.jit(lambda w, x: jax.jit(jnp.sin)(x) @ jax.jit(
      lambda w: w[0])(w)))
  assert names(made).count('jit') == 1 and 'dot_general' in names(made)


def test_layers_are_taken_apart_if_they_are_wanted():
  fn = lambda w, x: lax.scan(lambda x, w: (x @ w, x), x, w)
  made = line(fn)
  assert names(made).count('dot_general') == 3 and 'scan' not in names(made)
  assert [made.tags[i].path for i in made.slices] == [
      Leaf('w', ((0, k),)) for k in range(3)]
  assert 'scan' in names(line(fn, kernels=()))


def test_a_layer_that_is_no_layer_of_the_parameter_is_nobodys():
  def fn(w, x):
    return lax.scan(lambda x, w: (x @ w, ()), x, w.reshape(2, 6, 2, 2)[
        ..., 0].transpose(0, 2, 1)[:, :, :4].reshape(2, 2, 4)[:, 0][
            :, :, None] * jnp.ones((1, 1, 4)))
  assert not [leaf for step in line(fn).steps for leaf in step.seen]


def test_sizes_are_bytes():
  made = line(lambda w, x: x.astype(jnp.bfloat16))
  assert made.sizes == [192, 32, 16]
  assert made.steps[0].arrays() == [1] and made.steps[0].outs == (2,)


def test_chain_reads_the_line_of_shapes():
  chain = segments.chain(
      lambda p, x: x @ p['w'][0], {'w': jax.ShapeDtypeStruct(W.shape, W.dtype)},
      jax.ShapeDtypeStruct(X.shape, X.dtype), kernels=['w'])
  assert chain.names == ['w'] and not chain.segments
