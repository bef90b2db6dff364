"""Programs for Hopper GPUs have the kernel, compiled without one at hand."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse._utils import numerics
from jaxsparse.packed import _gpu
from jaxsparse.packed.kernels import hopper
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.layout24 import with_layout
from jaxsparse.packed.products import matmul
from jaxsparse.packed.training_product import training_matmul
from tests._lib.packed import assert_near
from tests._lib.packed import exported
from tests._lib.packed import gradients
from tests._lib.packed import normal
from tests._lib.packed import on_gpu
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import with_values


def for_cuda(f, *args):
  """The program for GPUs, as a text."""
  with on_gpu():
    return exported(f, *args, platforms=['cuda']).mlir_module()


def kernels_of(program):
  return program.count('custom_call @mosaic_gpu')


def dots_of(program):
  return program.count('stablehlo.dot_general')


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_programs_for_hopper_gpus_have_the_kernel_both_ways():
  w = with_layout(
      pack(two_way(512, 256, dtype=jnp.bfloat16), transposed=True), 'hopper')
  x, stack = normal(8, 512, dtype=jnp.bfloat16), jax.tree.map(
      lambda a: jnp.stack([a, a]), w)
  assert kernels_of(for_cuda(matmul, x, w)) == 1
  assert kernels_of(for_cuda(lambda x, w: jax.vjp(
      lambda x: matmul(x, w), x)[1](matmul(x, w)), x, w)) == 2
  assert kernels_of(for_cuda(jax.vmap(matmul), jnp.stack([x, x]), stack)) == 1
  dense = two_way(512, 256, dtype=jnp.bfloat16)
  assert kernels_of(for_cuda(lambda x, w: jax.vjp(
      training_matmul, x, w)[1](training_matmul(x, w)), x, dense)) == 2
  # Float32 is not served, and XLA goes on.
  assert not kernels_of(for_cuda(matmul, normal(8, 512), pack(two_way(512, 8))))


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_kernels_make_the_tangents_too():
  w = with_layout(pack(two_way(512, 256, dtype=jnp.bfloat16)), 'hopper')
  x = normal(8, 512, dtype=jnp.bfloat16)
  tangents = for_cuda(
      lambda x, v, dx, dv: jax.jvp(lambda x, v: matmul(x, with_values(w, v)),
                                   (x, v), (dx, dv)),
      x, w.values, x, w.values)
  assert kernels_of(tangents) and not dots_of(tangents)


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_a_change_of_a_training_weight_is_not_packed():
  # A kernel would drop what is not 2:4 of it.
  x = normal(8, 512, dtype=jnp.bfloat16)
  w = two_way(512, 256, dtype=jnp.bfloat16)
  of_x = for_cuda(lambda x, w, dx: jax.jvp(
      lambda x: training_matmul(x, w), (x,), (dx,)), x, w, x)
  of_w = for_cuda(lambda x, w, dw: jax.jvp(
      lambda w: training_matmul(x, w), (w,), (dw,)), x, w, w)
  assert kernels_of(of_x) and not dots_of(of_x)
  assert (kernels_of(of_w), dots_of(of_w)) == (1, 1)


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_what_was_tuned_is_used_by_programs_that_are_traced_later(monkeypatch):
  monkeypatch.setattr(hopper, '_TUNED', {})
  w = with_layout(pack(jnp.zeros((1024, 256), jnp.bfloat16)), 'hopper')
  x = jnp.zeros((8, 1024), jnp.bfloat16)
  before = for_cuda(lambda x, w: matmul(x, w), x, w)
  with on_gpu():
    key = hopper._key(8, w.values.shape, x.dtype)
    chosen = hopper.config_of(8, w.values.shape, x.dtype)
    hopper._TUNED[key] = chosen._replace(stages=chosen.stages - 1)
  assert for_cuda(lambda x, w: matmul(x, w), x, w) != before


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason='refused there')
def test_in_shard_map_results_of_the_kernel_vary_as_those_of_xla():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  w = with_layout(
      pack(two_way(512, 256, dtype=jnp.bfloat16), transposed=True), 'hopper')
  for product, n in (_gpu.matmul, 512), (_gpu.matmul_transposed, 256):
    def local(x, w, product=product):
      y = product(x, w, x.dtype)
      assert numerics.varies(y) == {'data'}
      return y
    program = exported(jax.shard_map(
        local, mesh=mesh, in_specs=(P('data'), P()), out_specs=P('data')),
        jnp.ones((32, n), jnp.bfloat16), w, platforms=['cuda'])
    assert kernels_of(program.mlir_module()) == 1


def test_values_of_hoppers_layout_have_gradients_of_any_dtype():
  w = with_layout(
      pack(two_way(512, 128, dtype=jnp.bfloat16)), 'hopper')
  wide_w = w.astype(jnp.float32)
  x = normal(4, 512)
  dx, dv = jax.jit(jax.grad(lambda x, v: matmul(
      x, with_values(wide_w, v)).sum(), (0, 1)))(x, wide_w.values)
  expected = gradients(x, w, np.ones((4, 128)))
  assert_near(dx, expected[0])
  assert_near(unpack(with_values(wide_w, dv)), expected[1])


def test_a_machine_without_a_hopper_gpu_is_told():
  if jax.default_backend() == 'cpu':
    assert 'is a cpu' in _gpu.missing()
  with on_gpu():
    assert _gpu.missing() is None


def test_what_the_kernel_does_not_serve_is_refused():
  w, x = pack(two_way(8, 4)), jnp.zeros((2, 8))
  with pytest.raises(NotImplementedError, match='not float32'):
    _gpu.matmul(x, w, x.dtype)
  with pytest.raises(NotImplementedError, match='transposed=True'):
    _gpu.matmul_transposed(x, w, x.dtype)
