"""Programs for TPUs have the kernel, those for other platforms do not."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import pytest

from jaxsparse.packed import _tpu
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.products import matmul
from tests._lib.packed import exported
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import with_values


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_programs_for_tpu_have_the_kernel_in_every_mode(dtype):
  w = pack(prune(normal(512, 256, dtype=jnp.dtype(dtype))))
  x = jnp.ones((8, 512), dtype)
  forward = exported(matmul, x, w, platforms=['tpu']).mlir_module()
  assert forward.count('tpu_custom_call') == 1
  back = exported(lambda x, w: jax.vjp(matmul, x, w)[1](
      jnp.ones((8, 256), dtype))[0], x, w, platforms=['tpu']).mlir_module()
  assert 'tpu_custom_call' in back
  tangents = exported(lambda x, v, dx, dv: jax.jvp(
      lambda x, v: matmul(x, with_values(w, v)), (x, v), (dx, dv)),
      x, w.values, x, w.values, platforms=['tpu']).mlir_module()
  assert 'tpu_custom_call' in tangents
  assert 'stablehlo.dot_general' not in tangents


def test_programs_for_tpu_have_the_kernels_in_shard_map():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  w, x = pack(prune(normal(512, 256))), jnp.ones((32, 512))

  def both(x, w):
    y, back = jax.vjp(lambda x: matmul(x, w), x)
    return y, *back(y)
  program = exported(jax.shard_map(
      both, mesh=mesh, in_specs=(P('data'), P()), out_specs=P('data')),
      x, w, platforms=['tpu'])
  assert program.mlir_module().count('tpu_custom_call') == 2


def test_programs_for_other_platforms_have_no_kernel_of_this_one():
  w, x = pack(prune(normal(512, 256))), jnp.ones((8, 512))
  for platforms in (['cpu'], ['cuda']):
    assert 'tpu_custom_call' not in exported(
        matmul, x, w, platforms=platforms).mlir_module()


def test_a_machine_without_a_tpu_is_told():
  if jax.default_backend() == 'tpu':
    assert _tpu.missing() is None
  else:
    assert jax.default_backend() in _tpu.missing()


def test_products_have_the_features_of_the_weight_and_no_padding():
  w = pack(prune(normal(300, 6)))
  x, dy = (jax.ShapeDtypeStruct((2, 3, n), jnp.float32) for n in (300, 6))
  dtype = jnp.dtype(jnp.bfloat16)
  for product, given, n in ((_tpu.matmul, x, 6),
                            (_tpu.matmul_transposed, dy, 300)):
    y = jax.eval_shape(lambda x, w: product(x, w, dtype), given, w)  # noqa: B023
    assert (y.shape, y.dtype) == ((2, 3, n), dtype)


def test_what_the_kernel_does_not_serve_is_refused():
  w, x = pack(jnp.zeros((8, 4), jnp.float16)), jnp.zeros((2, 8), jnp.float16)
  with pytest.raises(NotImplementedError, match='bfloat16 and float32'):
    _tpu.matmul(x, w, x.dtype)
