"""What both kinds of compressed weights tell of the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed._compressed import Compressed
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.layout24 import with_layout
from jaxsparse.packed.products import matmul
from tests._lib.packed import two_way

_MAKE = {
    'planar': pack,
    'both ways': lambda w: pack(w, transposed=True),
    'tiled': lambda w: with_layout(pack(w), 'tiled'),
    'hopper': lambda w: with_layout(pack(w), 'hopper'),
    'blocks': lambda w: condense(w, np.ones(w.shape, bool), block=2),
    'fan-in': lambda w: condense(w, w != 0, block=1)}


@pytest.mark.parametrize('kind', _MAKE)
@pytest.mark.parametrize('shape', [(8, 4), (3, 8, 4)], ids=str)
def test_rank_dtype_and_bytes_are_told(kind, shape):
  w = _MAKE[kind](two_way(*shape, dtype=jnp.bfloat16))
  assert isinstance(w, Compressed)
  assert (w.shape, w.ndim, w.dtype) == (shape, len(shape), jnp.bfloat16)
  assert w.nbytes == sum(np.asarray(x).nbytes for x in jax.tree.leaves(w))
  assert w.astype(jnp.float32).dtype == jnp.float32
  leading = shape[:-2]
  assert (*leading, *w.contracted, *w.features) == shape


@pytest.mark.parametrize('kind', _MAKE)
def test_programs_that_take_one_are_saved_and_read_again(kind):
  w = _MAKE[kind](two_way(8, 4, dtype=jnp.bfloat16))
  x = jnp.arange(16, dtype=jnp.bfloat16).reshape(2, 8)
  program = jax.export.export(jax.jit(matmul))(x, w)
  again = jax.export.deserialize(program.serialize())
  assert again.in_tree == program.in_tree
  np.testing.assert_array_equal(again.call(x, w), matmul(x, w))
