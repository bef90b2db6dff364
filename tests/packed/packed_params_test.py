"""Parameter trees with packed weights in them, from rules and from masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse.packed import _dispatch
from jaxsparse.packed import layout24
from jaxsparse.packed.layout24 import Packed24
from jaxsparse.packed.packed_params import pack_params
from jaxsparse.packed.packed_params import unpack_params
from jaxsparse.packed.products import matmul
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import two_way

_RULES = {'.*/kernel': jaxsparse.nm(2, 4), '.*': None}


def is_packed(node):
  return isinstance(node, Packed24)


def pruned(*shape, axis=-2, dtype=np.float32, seed=0):
  w = normal(*shape, dtype=jnp.dtype(dtype), seed=seed)
  if axis == (-3, -2):
    w = prune(w.reshape(-1, shape[-1]), seed=seed)
    return jnp.asarray(w.reshape(shape))
  return jnp.asarray(prune(w, axis, seed))


def mlp():
  return {'in': {'kernel': pruned(512, 8), 'bias': jnp.ones(8)},
          'out': {'kernel': pruned(512, 8, seed=1), 'bias': jnp.ones(8)},
          'scale': jnp.ones(())}


def packed_paths(tree):
  paths = jax.tree.leaves_with_path(tree, is_leaf=is_packed)
  return [jax.tree_util.keystr(path, simple=True, separator='/')
          for path, leaf in paths if is_packed(leaf)]


def assert_same_trees(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert ([x.dtype for x in jax.tree.leaves(a)]
          == [x.dtype for x in jax.tree.leaves(b)])


def test_rules_pack_what_they_make_24_and_unpack_is_the_inverse():
  params = mlp()
  packed = pack_params(params, _RULES)
  assert packed_paths(packed) == ['in/kernel', 'out/kernel']
  assert packed['in']['bias'] is params['in']['bias']
  assert_same_trees(unpack_params(packed), params)
  # What is dense already stays what it is.
  assert_same_trees(unpack_params(params), params)


def test_masks_prune_and_pack():
  params = jax.tree.map(lambda x: x + 1, mlp())  # Nothing is zero.
  masks = {'in': {'kernel': mlp()['in']['kernel'] != 0, 'bias': None},
           'out': {'kernel': None, 'bias': None}, 'scale': None}
  packed = pack_params(params, masks)
  assert packed_paths(packed) == ['in/kernel']
  expected = jaxsparse.apply_masks(params, masks)
  assert_same_trees(unpack_params(packed), expected)


def test_masks_along_the_last_axis_are_packed_along_it():
  params = {'a': jnp.ones((8, 512)), 'b': jnp.ones((512, 8)),
            'both': jnp.ones((512, 256)), 'neither': jnp.ones((512, 8))}
  masks = {'a': pruned(8, 512, axis=-1) != 0, 'b': pruned(512, 8) != 0,
           'both': jnp.asarray(two_way(512, 256) != 0),
           'neither': jnp.ones((512, 8), bool)}
  packed = pack_params(params, masks)
  assert packed_paths(packed) == ['a', 'b', 'both']
  assert packed['a'].contracted_last and packed['a'].contracted == (512,)
  assert not packed['both'].contracted_last
  assert_same_trees(unpack_params(packed),
                    jaxsparse.apply_masks(params, masks))


def test_unstructured_masks_are_applied_and_stay_dense():
  params = {'a': pruned(512, 8), 'b': jax.device_put(normal(512, 8))}
  masks = {'a': params['a'] != 0, 'b': params['b'] > 0}
  packed = pack_params(params, masks)
  assert packed_paths(packed) == ['a']
  np.testing.assert_array_equal(packed['b'],
                                np.where(masks['b'], params['b'], 0))


def test_one_of_four_is_two_of_four():
  w = np.zeros((512, 8), np.float32)
  w[::4] = 3.
  packed = pack_params({'w': w}, {'w': jaxsparse.nm(1, 4)})
  np.testing.assert_array_equal(unpack_params(packed)['w'], w)


@pytest.mark.parametrize('pattern', [
    jaxsparse.nm(4, 8), jaxsparse.nm(3, 4), jaxsparse.nm(2, 8),
    jaxsparse.unstructured(sparsity=0.5), jaxsparse.block((4, 4), sparsity=0.5),
    None], ids=str)
def test_other_rules_leave_a_weight_as_it_is(pattern):
  params = {'a': pruned(512, 8), 'b': pruned(512, 8)}
  packed = pack_params(params, {'a': jaxsparse.nm(2, 4), 'b': pattern})
  assert packed_paths(packed) == ['a']
  assert packed['b'] is params['b']


def test_the_first_rule_that_matches_counts():
  params = {'a': pruned(8, 512, axis=-1), 'b': pruned(512, 8)}
  packed = pack_params(params, {
      'a': jaxsparse.nm(2, 4, axis=-1), '.*': jaxsparse.nm(2, 4)})
  assert packed['a'].contracted_last and not packed['b'].contracted_last
  assert_same_trees(unpack_params(packed), params)


def test_rules_of_attention_pack_all_projections():
  params = {
      'query': {'kernel': pruned(256, 2, 4, axis=-3), 'bias': jnp.ones((2, 4))},
      'out': {'kernel': pruned(64, 4, 8, axis=(-3, -2)), 'bias': jnp.ones(8)},
      'mlp': {'kernel': pruned(512, 8)}}
  packed = pack_params(params, {
      **jaxsparse.patterns.attention(2, 4), '.*/kernel': jaxsparse.nm(2, 4)})
  assert packed_paths(packed) == ['mlp/kernel', 'out/kernel', 'query/kernel']
  assert packed['query']['kernel'].contracted == (256,)
  assert packed['query']['kernel'].features == (2, 4)
  assert packed['out']['kernel'].contracted == (64, 4)
  x = jax.device_put(normal(3, 256, seed=1))
  np.testing.assert_allclose(
      matmul(x, packed['query']['kernel']),
      jnp.einsum('td,dhk->thk', x, params['query']['kernel']), rtol=0,
      atol=1e-4)
  assert_same_trees(unpack_params(packed), params)


def test_kernel_patterns_pack_what_a_function_contracts():
  params = {'in': pruned(512, 256), 'out': pruned(8, 256, axis=-1),
            'scale': jnp.ones(512)}
  f = lambda p, x: jnp.tanh(x * p['scale'] @ p['in']) @ p['out'].T
  rules = jaxsparse.kernel_patterns(
      f, params, jnp.ones(512), pattern=jaxsparse.nm(2, 4))
  packed = pack_params(params, rules)
  assert packed_paths(packed) == ['in', 'out']
  assert packed['out'].contracted_last
  x = jax.device_put(normal(512, seed=1))
  y = matmul(jnp.tanh(matmul(x * packed['scale'], packed['in'])), packed['out'])
  np.testing.assert_allclose(y, f(params, x), rtol=1e-4, atol=1e-4)


def test_stacked_layers_are_packed_together_and_scanned():
  params = {'layers': {'kernel': pruned(3, 256, 256) / 300,
                       'bias': jnp.ones((3, 1))}}
  packed = pack_params(params, _RULES)
  assert packed['layers']['kernel'].values.shape[0] == 3
  assert_same_trees(unpack_params(packed), params)

  def step(x, layer):
    return jnp.tanh(matmul(x, layer['kernel']) + layer['bias']), None
  x = jax.device_put(normal(2, 256))
  with jax.numpy_rank_promotion('allow'):
    y, _ = jax.lax.scan(step, x, packed['layers'])
    for w, b in zip(*params['layers'].values()):
      x = jnp.tanh(x @ w + b)
  np.testing.assert_allclose(y, x, rtol=0, atol=1e-5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
  kernel: jax.Array
  bias: jax.Array | None


def test_any_tree_keeps_its_structure():
  w = pruned(512, 8)
  params = [(Layer(w, None), {'kernel': w}), [Layer(w, jnp.ones(8))], None, ()]
  packed = pack_params(params, _RULES)
  assert isinstance(packed[0][0], Layer) and is_packed(packed[0][0].kernel)
  assert packed[0][0].bias is None and packed[2:] == [None, ()]
  assert len(packed_paths(packed)) == 3
  assert_same_trees(unpack_params(packed), params)
  masks = jax.tree.map(lambda x: x != 0 if x.ndim > 1 else None, params)
  assert_same_trees(unpack_params(pack_params(params, masks)), params)


def test_one_array_is_a_tree():
  w = pruned(512, 8)
  packed = pack_params(w, w != 0)
  assert is_packed(packed)
  np.testing.assert_array_equal(unpack_params(packed), w)


@pytest.mark.parametrize('layout, smaller', [
    ('planar', ['128', '256', '260', '8']), ('tiled', ['256'])])
def test_weights_that_would_get_larger_stay_pruned(layout, smaller):
  # Of 128 rows in bfloat16 a tiled weight has 1.125 of the bytes.
  params = {str(k): jnp.ones((k, 8), jnp.bfloat16)
            for k in (4, 8, 128, 256, 260)}
  masks = {k: pruned(*w.shape) != 0 for k, w in params.items()}
  packed = pack_params(params, masks, layout=layout)
  assert packed_paths(packed) == smaller
  for k in set(params) - set(smaller):
    np.testing.assert_array_equal(np.float32(packed[k]), np.where(
        masks[k], np.float32(params[k]), 0))
  for k, w in packed.items():
    assert w.nbytes <= params[k].nbytes, k


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('layout', ['planar', 'hopper'])
@pytest.mark.parametrize('n', [64, 256])
def test_nothing_gets_larger_in_any_layout(layout, transposed, n):
  w = jnp.asarray(two_way(512, n, dtype=jnp.bfloat16))
  always = jnp.asarray(two_way(256, 256, dtype=jnp.bfloat16))
  packed = pack_params({'w': w, 'always': always}, {'.*': jaxsparse.nm(2, 4)},
                       layout=layout, transposed=transposed)
  # With the transposed form there are two weights.
  assert packed['w'].nbytes <= (1 + transposed) * w.nbytes
  assert packed['always'].nbytes == (1 + transposed) * 0.5625 * always.nbytes


def test_layout_and_dtypes():
  params = {'bf16': pruned(512, 128, dtype='bfloat16'),
            'f32': pruned(512, 128), 'int8': pruned(512, 128, dtype='int8')}
  packed = pack_params(params, {'.*': jaxsparse.nm(2, 4)}, layout='hopper')
  assert [packed[name].layout for name in params] == [
      'hopper', 'planar', 'planar']  # Hopper's reads 16 bits alone.
  assert [packed[name].dtype.name for name in params] == [
      'bfloat16', 'float32', 'int8']
  assert_same_trees(unpack_params(packed), params)


def test_transposed_packs_both_ways():
  params = {'w': jnp.asarray(two_way(512, 256)), 'b': jnp.ones(3)}
  for how in ({'w': jaxsparse.nm(2, 4), 'b': None},
              {'w': params['w'] != 0, 'b': None}):
    packed = pack_params(params, how, transposed=True)
    assert packed['w'].transposed is not None
    assert_same_trees(unpack_params(packed), params)
  with pytest.raises(ValueError, match='^w: .*transposable'):
    pack_params({'w': pruned(512, 256)}, {'w': jaxsparse.nm(2, 4)},
                transposed=True)


def test_a_layout_that_is_none_is_an_error():
  with pytest.raises(ValueError, match='planar.*hopper'):
    pack_params(mlp(), _RULES, layout='hoper')


def test_the_layout_is_what_the_machine_reads(monkeypatch):
  params = {'kernel': pruned(512, 128).astype(jnp.bfloat16)}
  rules = {'kernel': jaxsparse.nm(2, 4)}
  assert pack_params(params, rules)['kernel'].layout == 'planar'
  for here, layout in (('tpu', 'tiled'), ('gpu', 'hopper')):
    monkeypatch.setattr(
        _dispatch, 'missing', lambda name, here=here: name != here or None)
    assert pack_params(params, rules)['kernel'].layout == layout


def test_a_layout_that_no_weight_can_have_is_an_error():
  with pytest.raises(ValueError, match='float32.*Cast'):
    pack_params({'kernel': pruned(512, 128)},
                {'kernel': jaxsparse.nm(2, 4)}, layout='hopper')


def test_masks_tell_the_axis_of_matrices_alone():
  params = {'attention': pruned(2, 256, 64), 'mlp': pruned(512, 64)}
  packed = pack_params(params, jax.tree.map(lambda w: w != 0, params))
  assert packed_paths(packed) == ['mlp']


def test_what_is_not_24_is_named():
  params = mlp()
  params['out']['kernel'] = jnp.ones((512, 8))
  with pytest.raises(ValueError, match='^out/kernel: .*inputs 0:4, output 0'):
    pack_params(params, _RULES)


@pytest.mark.parametrize('how, told', [
    ({'.*': jaxsparse.unstructured(sparsity=0.5)}, r'nm\(2, 4\)'),
    ({'.*/bias': jaxsparse.unstructured(sparsity=0.5), '.*': None},
     r'nm\(2, 4\)'),
    ({'small': jaxsparse.nm(2, 4), '.*': None}, 'small'),
    ({'nosuch': jaxsparse.nm(2, 4)}, 'nosuch'),
    ({}, r'nm\(2, 4\)|get_masks'),
    ({'in': None}, 'get_masks'),
    (jaxsparse.nm(2, 4), 'get_masks|nm'),
], ids=str)
def test_nothing_to_pack_is_an_error(how, told):
  params = {**mlp(), 'small': pruned(2, 4)}
  with pytest.raises(ValueError, match=told):
    pack_params(params, how)


def test_masks_without_24_are_nothing_to_pack():
  params = mlp()
  for make in (lambda w: jnp.ones(w.shape, bool), lambda w: None):
    with pytest.raises(ValueError, match='found no weight to pack'):
      pack_params(params, jax.tree.map(make, params))


def test_masks_are_read_inside_of_jit_and_traced_ones_are_told():
  params = {'w': jnp.ones((8, 4)), 'b': jnp.ones(4)}
  masks = {'w': pruned(8, 4) != 0, 'b': None}
  want = pack_params(params, masks)
  for held in (masks, jax.device_get(masks)):
    f = lambda params, held=held: pack_params(params, held)
    assert_same_trees(jax.jit(f)(params), want)
    assert jax.tree.structure(jax.eval_shape(f, params)) == (
        jax.tree.structure(want))
  with pytest.raises(ValueError, match='got a traced mask.*Write pack_params'):
    jax.eval_shape(pack_params, params, masks)


def test_packed_params_are_not_packed_again():
  params = mlp()
  packed = pack_params(params, _RULES)
  with pytest.raises(ValueError, match='packed'):
    pack_params(packed, {'.*': jaxsparse.nm(2, 4)})


def test_trees_of_numpy_are_packed():
  params = jax.device_get(mlp())
  masks = jax.tree.map(lambda w: w != 0, params)
  for how in (_RULES, masks):
    packed = pack_params(params, how)
    assert packed_paths(packed) == ['in/kernel', 'out/kernel']
    assert_same_trees(unpack_params(packed), params)


def apply(params, x, product):
  x = jnp.tanh(product(x, params['in']['kernel']) / 16)
  return product(x, params['out']['kernel'])


@pytest.mark.parametrize('flow', [jaxsparse.hard(), jaxsparse.sr_ste(2e-4)],
                         ids=['hard', 'sr_ste'])
def test_end_to_end_from_training_to_packed(flow):
  params = {'in': {'kernel': jax.device_put(normal(256, 256))},
            'out': {'kernel': jax.device_put(normal(256, 4, seed=1))}}
  rule = jaxsparse.prune({'.*/kernel': jaxsparse.nm(2, 4)})
  tx = jaxsparse.sparsify(optax.sgd(1e-3), rule, flow)
  x = jax.device_put(normal(8, 256, seed=2))
  y = jax.device_put(normal(8, 4, seed=3))
  loss = lambda p: ((apply(p, x, jnp.matmul) - y) ** 2).mean()

  @jax.jit
  def step(params, state):
    sparse = jaxsparse.sparse_params(params, state)
    value, grads = jax.value_and_grad(loss)(sparse)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  state, losses = tx.init(params), []
  for _ in range(5):
    params, state, value = step(params, state)
    losses.append(float(value))
  assert losses[-1] < losses[0]
  sparse = jaxsparse.sparse_params(params, state)
  packed = pack_params(params, jaxsparse.get_masks(state))
  assert packed_paths(packed) == ['in/kernel', 'out/kernel']
  assert_same_trees(unpack_params(packed), sparse)
  assert_same_trees(unpack_params(pack_params(
      sparse, {'.*/kernel': jaxsparse.nm(2, 4)})), sparse)
  np.testing.assert_allclose(
      jax.jit(lambda p, x: apply(p, x, matmul))(packed, x),
      apply(sparse, x, jnp.matmul), rtol=0, atol=1e-4)
  assert layout24.unpack(packed['in']['kernel']).dtype == jnp.float32
