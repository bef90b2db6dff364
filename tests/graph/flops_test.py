"""FLOPs: against formulas by hand, and which parameter products are of."""

from flax import nnx
import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph._flops import Flops
from jaxsparse.graph._flops import flops

N, IN, OUT = 5, 4, 6
CALL = 2 * N * IN * OUT  # One product of `x` with `kernel`.


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


PARAMS = {'bias': array(OUT), 'kernel': array(IN, OUT)}
X = array(N, IN)


def mlp(params, x):
  h = jnp.tanh(x @ params['in']['kernel'] + params['in']['bias'][None])
  return h @ params['out']['kernel'] + params['out']['bias'][None]


def mlp_params(width=7):
  return {'in': {'bias': array(width), 'kernel': array(IN, width)},
          'out': {'bias': array(OUT), 'kernel': array(width, OUT)}}


def square(f):
  return lambda *args: (f(*args)**2).sum()


def test_an_mlp_counts_its_kernels():
  counted = flops(mlp, mlp_params(), X)
  assert counted == Flops({
      'in/bias': 0, 'in/kernel': 2 * N * IN * 7,
      'out/bias': 0, 'out/kernel': 2 * N * 7 * OUT}, other=0)
  assert list(counted.by_parameter) == [
      'in/bias', 'in/kernel', 'out/bias', 'out/kernel']
  assert counted.total == 2 * N * 7 * (IN + OUT)


def test_a_matrix_product_counts_what_xla_says():
  params, x = jax.tree.map(
      lambda s: jnp.ones(s.shape), ({'a': array(8, 3), 'b': array(3, 5)}, X))

  def f(params, x):
    return jnp.concatenate([x, x], 1) @ params['a'] @ params['b']
  cost = jax.jit(f).lower(params, x).compile().cost_analysis()
  assert flops(f, params, x).total == pytest.approx(cost['flops'], rel=.01)


def test_counts_do_not_overflow():
  n = 2**24
  params = {'w': array(n, n, dtype=jnp.int8)}
  counted = flops(
      lambda p, x: x @ p['w'], params, array(n, n, dtype=jnp.int8))
  assert counted.total == 2**73


@pytest.mark.parametrize('equation, lhs, cost', [
    ('bni,io->bno', (2, 3, 4), 2 * 2 * 3 * 4 * 6),
    ('nbi,oi->onb', (2, 3, 6), 2 * 2 * 3 * 4 * 6),
    ('oin,io->n', (6, 4, 5), 2 * 4 * 6 * 5),
    ('bi,bo->bio', (4, 3), 2 * 4 * 3 * 6)])
def test_products_over_any_axes(equation, lhs, cost):
  f = lambda p, x: jnp.einsum(equation, x, p['w'])
  assert flops(f, {'w': array(4, 6)}, array(*lhs)) == Flops({'w': cost}, 0)


@pytest.mark.parametrize('change', [
    lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
    lambda w: w.T.reshape(OUT, 2, 2).reshape(OUT, IN).T,
    lambda w: jnp.where(jnp.arange(OUT)[None] > 2, w, 0.),
    lambda w: w * jnp.asarray(np.ones((IN, OUT), bool)).astype(w.dtype),
    lambda w: jnp.where(jnp.abs(w) > jnp.median(jnp.abs(w)), w, 0.),
    lambda w: jnp.round(w / jnp.abs(w).max()) * jnp.abs(w).max(),
    lambda w: w + lax.stop_gradient(jnp.sign(w) - w),
    lambda w: jax.nn.standardize(w, axis=0),
    lambda w: jax.jit(jax.checkpoint(jnp.tanh))(w),
    lambda w: lax.fori_loop(0, 3, lambda i, w: w * 0.9, w),
    lambda w: lax.while_loop(lambda w: w.sum() < 9, lambda w: w * 2, w),
    lambda w: lax.cond(w.sum() > 0, lambda w: w, lambda w: -w, w),
], ids=['cast', 'reshape', 'mask', 'bool', 'magnitude', 'quantised', 'ste',
        'standardised', 'jit', 'fori_loop', 'while_loop', 'cond'])
def test_a_kernel_changed_alone_stays_that_kernel(change):
  counted = flops(lambda p, x: x @ change(p['kernel']), PARAMS, X)
  assert counted == Flops({'bias': 0, 'kernel': CALL}, 0)


@pytest.mark.parametrize('each', [
    lambda p, x: (jax.device_put(p), x),
    lambda p, x: lax.optimization_barrier((p, x))],
                         ids=['device_put', 'barrier'])
def test_what_passes_a_primitive_together_stays_itself(each):
  assert flops(lambda p, x: mlp(*each(p, x)), mlp_params(), X) == (
      flops(mlp, mlp_params(), X))


def test_masks_may_be_arguments_or_parameters():
  mask = array(IN, OUT, dtype=jnp.bool_)
  masked = flops(lambda p, m, x: x @ (p['kernel'] * m.astype(x.dtype)),
                 PARAMS, mask, X)
  assert masked == Flops({'bias': 0, 'kernel': CALL}, 0)
  inside = flops(lambda p, x: x @ jnp.where(p['mask'], p['kernel'], 0.),
                 {**PARAMS, 'mask': mask}, X)
  assert inside == Flops({'bias': 0, 'kernel': CALL, 'mask': 0}, 0)


@pytest.mark.parametrize('change', [
    lambda w, x: w * x.mean(),
    lambda w, x: jnp.where(x.sum() > 0, w, 0.),
    lambda w, x: lax.cond(x.sum() > 0, lambda: w, lambda: 2 * w),
    lambda w, x: lax.fori_loop(0, 3, lambda i, c: (c[1], c[1] + x.sum()),
                               (w, w))[0],
    lambda w, x: lax.while_loop(lambda w: w.sum() < 9, lambda w: w + x.sum(),
                                w),
    lambda w, x: w[x.astype(jnp.int32)[0]],
], ids=['times', 'where', 'cond', 'fori_loop', 'while_loop', 'lookup'])
def test_what_met_data_is_data(change):
  counted = flops(lambda p, x: x @ change(p['kernel'], x), PARAMS, X)
  assert counted == Flops({'bias': 0, 'kernel': 0}, CALL)


def test_an_activation_never_becomes_the_bias_added_to_it():
  def f(p, x):
    h = x @ p['kernel'] + p['bias'][None]
    return h @ h.T
  counted = flops(f, PARAMS, X)
  assert counted == Flops({'bias': 0, 'kernel': CALL}, 2 * N * OUT * N)


def test_rows_looked_up_by_tokens_are_data_but_tied_logits_are_not():
  def f(p, tokens):
    x = p['table'][tokens] * 3. + p['positions']
    return x @ x.T, x @ p['table'].T
  counted = flops(f, {'positions': array(N, 4), 'table': array(11, 4)},
                  array(N, dtype=jnp.int32))
  assert counted == Flops(
      {'positions': 0, 'table': 2 * N * 4 * 11}, 2 * N * 4 * N)


def test_a_batch_closed_over_is_data():
  tokens = jnp.array([2, 0, 1])
  counted = flops(lambda p: p['table'][tokens] @ p['w'],
                  {'table': array(11, 4), 'w': array(4, 5)})
  assert counted == Flops({'table': 0, 'w': 2 * 3 * 4 * 5}, 0)


def test_a_parameter_used_twice_counts_twice():
  counted = flops(lambda p, x: x @ p['kernel'] @ p['kernel'].T, PARAMS, X)
  assert counted == Flops({'bias': 0, 'kernel': 2 * CALL}, 0)


def test_of_two_parameters_the_larger_names_a_product():
  def f(p, x):
    return (x @ (p['kernel'] * p['scale'][None]),
            p['queries'] @ p['kernel'], p['kernel'] @ p['kernel'].T)
  counted = flops(f, {'kernel': array(IN, OUT), 'queries': array(2, IN),
                      'scale': array(OUT)}, X)
  assert counted == Flops({'kernel': CALL + 2 * IN * OUT * (2 + IN),
                           'queries': 0, 'scale': 0}, 0)


def test_two_parameters_of_one_size_name_nothing():
  params = {'a': array(IN, OUT), 'b': array(IN, OUT)}
  for merge in (jnp.add, lambda a, b: a * jax.nn.sigmoid(b),
                lambda a, b: jnp.stack([a, b])[0]):
    counted = flops(lambda p, x, m=merge: x @ m(p['a'], p['b']), params, X)
    assert counted == Flops({'a': 0, 'b': 0}, CALL)
  assert flops(lambda p: p['a'] @ p['b'].T, params).other == 2 * IN * OUT * IN


def test_a_low_rank_update_is_other_once_merged():
  params = {'a': array(IN, 2), 'b': array(2, OUT), 'kernel': array(IN, OUT)}
  rank = {'a': 2 * N * IN * 2, 'b': 2 * N * 2 * OUT, 'kernel': CALL}
  apart = flops(
      lambda p, x: x @ p['kernel'] + x @ p['a'] @ p['b'], params, X)
  assert apart == Flops(rank, 0)
  merged = flops(
      lambda p, x: x @ (p['kernel'] + p['a'] @ p['b']), params, X)
  assert merged.by_parameter['kernel'] == 0 and merged.other == CALL


def attention(p, x):
  q, k = x @ p['q'], x @ p['k']
  return jax.nn.softmax(q @ k.T) @ (x @ p['v'])


def test_products_of_activations_are_other():
  params = {name: array(IN, OUT) for name in 'qkv'}
  counted = flops(attention, params, X)
  assert counted == Flops(dict.fromkeys('qkv', CALL), 2 * (2 * N * OUT * N))


def test_a_scan_counts_every_layer_under_the_stacked_kernel():
  params = {'kernel': array(3, IN, IN), 'shared': array(IN, IN)}

  def f(p, x):
    def layer(x, w):
      return jnp.tanh(x @ w) @ p['shared'], x @ x.T
    return lax.scan(jax.checkpoint(layer), x, p['kernel'])
  one = 2 * N * IN * IN
  assert flops(f, params, X) == Flops(
      {'kernel': 3 * one, 'shared': 3 * one}, 3 * 2 * N * IN * N)


def test_a_loop_over_stacked_kernels_keeps_their_name():
  f = lambda p, x: lax.fori_loop(0, 3, lambda i, x: x @ p['kernel'][i], x)
  assert flops(f, {'kernel': array(3, IN, IN)}, X) == Flops(
      {'kernel': 3 * 2 * N * IN * IN}, 0)


def test_scans_nest():
  def f(p, x):
    inner = lambda x, w: lax.scan(lambda x, _: (x @ w, w), x, length=5)
    x, kernels = lax.scan(inner, x, p['kernel'])
    return x @ kernels[0, 0]
  assert flops(f, {'kernel': array(3, IN, IN)}, X) == Flops(
      {'kernel': (3 * 5 + 1) * 2 * N * IN * IN}, 0)


def test_a_cond_counts_its_costliest_branch():
  f = lambda p, x: lax.cond(
      x.sum() > 0, lambda: x @ p['kernel'],
      lambda: x @ p['kernel'] @ p['kernel'].T @ p['kernel'])
  assert flops(f, PARAMS, X) == Flops({'bias': 0, 'kernel': 3 * CALL}, 0)


def test_a_loop_of_unknown_length_is_an_error_that_says_what_to_write():
  def f(p, x, n):
    return lax.fori_loop(0, n, lambda i, x: x @ p['kernel'] @ p['kernel'].T, x)
  with pytest.raises(ValueError, match='products in a while .* ints as bounds'):
    flops(f, PARAMS, X, 3)


def test_custom_derivatives_and_nested_calls_are_walked():
  @jax.custom_vjp
  def with_vjp(w, x):
    return x @ w
  with_vjp.defvjp(lambda w, x: (x @ w, (w, x)),
                  lambda r, g: (r[1].T @ g, g @ r[0].T))

  @jax.custom_jvp
  def with_jvp(w, x):
    return jax.jit(with_vjp)(w, x)
  with_jvp.defjvp(lambda p, t: (with_jvp(*p), with_jvp(*t)))

  f = lambda p, x: jax.checkpoint(with_jvp)(p['kernel'], x)
  assert flops(f, PARAMS, X) == Flops({'bias': 0, 'kernel': CALL}, 0)
  loss = lambda p, x: with_vjp(p['kernel'], x).sum()
  assert flops(jax.value_and_grad(loss, (0, 1)), PARAMS, X) == Flops(
      {'bias': 0, 'kernel': 2 * CALL}, CALL)
  # The gradient of a sum needs no forward product, and none is run.
  assert flops(jax.grad(loss, (0, 1)), PARAMS, X) == Flops(
      {'bias': 0, 'kernel': CALL}, CALL)


def test_a_linear_solve_counts_its_solver():
  f = lambda p, b: lax.custom_linear_solve(
      lambda x: p['w'] @ x, b, lambda _, b: p['w'] @ (p['w'] @ b))
  params = {'w': array(4, 4)}
  assert flops(f, params, array(4)).total == 2 * 2 * 4 * 4
  inverse = lambda p, x: x @ jnp.linalg.inv(p['w'])
  assert flops(inverse, params, X) == Flops({'w': 2 * N * 4 * 4}, 0)


def test_vmap_over_examples_and_over_kernels():
  f = jax.vmap(lambda p, x: x @ p['kernel'], (None, 0))
  assert flops(f, PARAMS, X) == Flops({'bias': 0, 'kernel': CALL}, 0)
  many = jax.vmap(lambda p, x: x @ p['kernel'])
  assert flops(many, {'kernel': array(3, IN, OUT)}, array(3, N, IN)) == Flops(
      {'kernel': 3 * CALL}, 0)


def test_value_and_grad_is_three_forward_passes_less_the_first_gradient():
  params = mlp_params()
  forward = flops(mlp, params, X)
  step = flops(jax.value_and_grad(square(mlp)), params, X)
  first = forward.by_parameter['in/kernel']
  assert step.total == forward.training() - first
  assert step.other == forward.total  # Gradients of weights are of activations.
  whole = flops(jax.value_and_grad(square(mlp), argnums=(0, 1)), params, X)
  assert whole.total == 3 * forward.total


def test_the_law_of_three_holds_for_attention():
  params = {name: array(IN, OUT) for name in 'qkv'}
  step = flops(jax.value_and_grad(square(attention), (0, 1)), params, X)
  assert step.total == flops(attention, params, X).training()


def test_remat_counts_the_forward_pass_again():
  f = jax.checkpoint(lambda p, x: jnp.sin(jnp.sin(x @ p['kernel'])))
  step = flops(jax.grad(square(f), argnums=(0, 1)), PARAMS, X)
  assert step.total == 4 * CALL


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('strides, dilation, groups', [
    (1, 1, 1), (2, 1, 1), (2, 1, 2), (1, 2, 1), (1, 1, 4)])
def test_convolutions_and_the_law_of_three(padding, strides, dilation, groups):
  def f(p, x):
    return lax.conv_general_dilated(
        x, p['kernel'], (strides, 1), padding, rhs_dilation=(dilation, 1),
        feature_group_count=groups, dimension_numbers=('NCHW', 'HWIO', 'NCHW'))
  params = {'kernel': array(3, 2, 4 // groups, 8)}
  x = array(2, 4, 9, 7)
  out = jax.eval_shape(f, params, x)
  one = 2 * out.size * (4 // groups) * 3 * 2
  forward = flops(f, params, x)
  assert forward == Flops({'kernel': one}, 0)
  step = flops(jax.value_and_grad(square(f), argnums=(0, 1)), params, x)
  assert step.total == 3 * one


def test_taps_that_only_meet_padding_do_not_count():
  def f(p, x):
    return lax.conv(x, p['kernel'], (1, 1), 'SAME')
  args = {'kernel': array(8, 3, 5, 5)}, array(2, 3, 2, 9)
  forward = flops(f, *args)
  assert forward.total == 2 * 2 * 8 * 3 * (2 * 2) * (9 * 5)
  step = flops(jax.value_and_grad(square(f), argnums=(0, 1)), *args)
  assert step.total == 3 * forward.total


@pytest.mark.parametrize('padding', [
    ((0, 0), (0, 0)), ((1, 1), (0, 1)), ((2, 0), (1, 3))])
@pytest.mark.parametrize('strides, lhs_dilation, rhs_dilation, groups', [
    (1, 1, 1, 1), (2, 1, 1, 2), (1, 1, 2, 1), (1, 2, 1, 1), (3, 1, 2, 4)])
def test_without_padding_xla_counts_the_same_and_the_law_of_three_holds(
    padding, strides, lhs_dilation, rhs_dilation, groups):
  def f(p, x):
    return lax.conv_general_dilated(
        x, p['kernel'], (strides, 1), padding, lhs_dilation=(1, lhs_dilation),
        rhs_dilation=(rhs_dilation, 1), feature_group_count=groups)
  params = {'kernel': array(8, 4 // groups, 3, 2)}
  x = array(2, 4, 9, 7)
  forward = flops(f, params, x, padding=False)
  assert forward.total == jax.jit(f).lower(params, x).cost_analysis()['flops']
  assert forward.total <= flops(f, params, x).total
  step = flops(jax.value_and_grad(square(f), argnums=(0, 1)), params, x,
               padding=False)
  assert step.total == 3 * forward.total


def test_products_in_loops_and_calls_count_without_padding_too():
  def layer(x, kernel):
    return lax.conv(x, kernel, (1, 1), 'SAME'), None

  def f(p, x):
    return jax.jit(lambda x: lax.scan(layer, x, p['kernel'])[0])(x)
  params, x = {'kernel': array(5, 3, 3, 3, 3)}, array(2, 3, 8, 8)
  of_one_layer = 2 * 2 * 3 * 3 * (3 * 8 - 2) ** 2
  assert flops(f, params, x, padding=False) == Flops(
      {'kernel': 5 * of_one_layer}, 0)


def test_a_transposed_convolution_costs_what_the_convolution_does():
  model = nnx.eval_shape(lambda: nnx.ConvTranspose(
      4, 6, (3, 3), strides=(2, 2), rngs=nnx.Rngs(0)))
  counted = count_nnx(model, array(2, 8, 8, 4))
  assert counted.by_parameter['kernel'] == 2 * 2 * 8 * 8 * 3 * 3 * 4 * 6


def count_nnx(model, *args):
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  return flops(
      lambda params, *args: nnx.merge(graphdef, params, rest)(*args),
      params, *args)


def test_nnx_convolutions():
  model = nnx.eval_shape(lambda: nnx.Sequential(
      nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0)),
      nnx.Conv(8, 8, (2, 4), feature_group_count=8, rngs=nnx.Rngs(0))))
  with jax.numpy_rank_promotion('allow'):  # Biases, in flax.
    counted = count_nnx(model, array(2, 8, 8, 3))
  assert counted == Flops({
      'layers/0/bias': 0, 'layers/0/kernel': 2 * (2 * 4 * 4) * 8 * 3 * 9,
      'layers/1/bias': 0, 'layers/1/kernel': 2 * (2 * 4 * 4) * 8 * 8}, 0)


def test_nnx_multi_head_attention():
  width, heads, batch, tokens = 12, 3, 2, 7
  model = nnx.eval_shape(lambda: nnx.MultiHeadAttention(
      heads, width, decode=False, rngs=nnx.Rngs(0)))
  with jax.numpy_rank_promotion('allow'):
    counted = count_nnx(model, array(batch, tokens, width))
  kernels = {f'{name}/kernel': 2 * batch * tokens * width * width
             for name in ('query', 'key', 'value', 'out')}
  assert {p: n for p, n in counted.by_parameter.items() if n} == kernels
  assert counted.other == 2 * (2 * batch * tokens * tokens * width)


def test_experts_count_the_rows_they_get():
  f = lambda p, x, sizes: lax.ragged_dot(x, p['experts'], sizes)
  args = {'experts': array(3, IN, OUT)}, X, array(3, dtype=jnp.int32)
  assert flops(f, *args) == Flops({'experts': CALL}, 0)
  step = flops(jax.value_and_grad(square(f), argnums=(0, 1)), *args)
  assert step.total == 3 * CALL


def test_shard_map_counts_all_devices():
  mesh = jax.make_mesh((4, 2), ('data', 'model'), devices=jax.devices()[:8],
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)
  spec = jax.sharding.PartitionSpec
  f = jax.shard_map(
      lambda p, x: x @ p['kernel'], mesh=mesh,
      in_specs=({'bias': spec(), 'kernel': spec(None, 'model')}, spec('data')),
      out_specs=spec('data', 'model'))
  counted = flops(f, PARAMS, array(8, IN))
  assert counted == Flops({'bias': 0, 'kernel': 2 * 8 * IN * OUT}, 0)


def test_a_pallas_kernel_counts_its_grid():
  def kernel(x, w, out):
    out[...] = jnp.dot(x[...], w[...])
  call = pl.pallas_call(
      kernel, out_shape=array(4 * 8, OUT), grid=(4,),
      in_specs=[pl.BlockSpec((8, IN), lambda i: (i, 0)),
                pl.BlockSpec((IN, OUT), lambda i: (0, 0))],
      out_specs=pl.BlockSpec((8, OUT), lambda i: (i, 0)))
  counted = flops(lambda p, x: call(x, p['kernel']), PARAMS, array(32, IN))
  assert counted == Flops({'bias': 0, 'kernel': 2 * 32 * IN * OUT}, 0)


def test_random_keys_and_functions_without_products():
  f = lambda p, key: jax.random.normal(key, (3,)) + p['a'] * p['b']
  counted = flops(f, {'a': array(), 'b': array()}, jax.random.key(0))
  assert counted == Flops({'a': 0, 'b': 0}, 0)
  assert counted.forward() == counted.training() == 0
  assert flops(lambda p: (), {}) == Flops({}, 0)


COUNTED = Flops({'in/kernel': 100, 'out/0': 40, 'unused': 0}, 8)


def test_forward_weights_each_parameter_by_its_density():
  assert COUNTED.forward() == 148
  assert COUNTED.forward({'in/kernel': 0.1}) == 10 + 40 + 8
  tree = {'in': {'kernel': np.arange(10).reshape(2, 5) < 3},
          'out': [jnp.array([True, False])], 'unused': None}
  assert COUNTED.forward(tree) == 30 + 20 + 8
  mixed = {'in': {'kernel': None}, 'out': [jnp.bfloat16(0.5)], 'unused': 0}
  assert COUNTED.forward(mixed) == 100 + 20 + 8


def test_training_is_two_sparse_products_and_a_gradient():
  dense, sparse = 148, 10 + 40 + 8
  masks = {'in/kernel': 0.1}
  assert COUNTED.training() == 3 * dense
  assert COUNTED.training(masks) == 2 * sparse + dense
  assert COUNTED.training(masks, masks) == 3 * sparse
  assert COUNTED.training(gradient=masks) == 2 * dense + sparse


@pytest.mark.parametrize('densities, message', [
    ({'out': 0.5}, r"in/kernel, out/0.*got \['out'\]"),
    ({'in/kernel': 90}, 'in/kernel: .* got 90'),
    ({'in/kernel': -0.1}, 'got -0.1'),
    ({'in/kernel': np.nan}, 'got nan'),
    ({'in/kernel': 'dense'}, 'got dense'),
    ({'in/kernel': np.ones((2, 3))}, r'float64\[2, 3\]'),
    ({'in/kernel': array(2, 3, dtype=jnp.bool_)}, 'got ShapeDtypeStruct')])
def test_other_densities_are_an_error(densities, message):
  with pytest.raises(ValueError, match=message):
    COUNTED.training(densities)


def test_the_table_shows_what_has_flops():
  lines = [line.split() for line in str(COUNTED).splitlines()]
  assert lines[0] == ['parameter', 'FLOPs', 'share']
  assert lines[2:4] == [['in/kernel', '100', '67.6%'], ['out/0', '40', '27.0%']]
  assert lines[5:] == [['other', '8', '5.4%'], ['total', '148', '100.0%']]
  assert len({len(line) for line in str(COUNTED).splitlines()}) == 1
  assert 'total' in str(Flops({}, 0))


def test_what_platforms_do_their_own_way_costs_as_the_default():
  def apply(params, x):
    return jax.lax.platform_dependent(
        x, tpu=lambda x: x @ params['w'] @ jnp.ones((4, 4)),
        default=lambda x: x @ params['w'])
  params, x = {'w': jnp.ones((3, 4))}, jnp.ones((2, 3))
  assert flops(apply, params, x).total == 2 * 2 * 3 * 4
