"""Permutations of whole models: what is kept, what follows, what is refused."""

import ast
import functools
import re

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import find_permutations
from jaxsparse import infer_ties
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse import permute
from jaxsparse import schedules
from jaxsparse import unstructured
from jaxsparse._utils import trees
from tests._lib import zoo
from tests._lib.zoo_case import data
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import weights

pytestmark = pytest.mark.slow

SAME = 1e-5  # Of the largest number, in f32.
N = 4


def standard(tx):
  """optax is not strict."""
  def update(*args, **kwargs):
    with (jax.numpy_dtype_promotion('standard'),
          jax.numpy_rank_promotion('allow')):
      return tx.update(*args, **kwargs)

  def init(params):
    with (jax.numpy_dtype_promotion('standard'),
          jax.numpy_rank_promotion('allow')):
      return jax.jit(tx.init)(params)
  return optax.GradientTransformationExtraArgs(init, update)


def numbers(tree):
  return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def same(got, expected, tolerance=SAME):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(numbers(got), numbers(expected), strict=True):
    assert a.shape == b.shape
    if b.size:
      assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-3)


def differs(a, b):
  return any((x != y).any() for x, y in zip(numbers(a), numbers(b)))


def shuffled(ties, seed=0):
  """A random order for every free tie."""
  rng = np.random.default_rng(seed)
  orders = {}
  for tie in ties.free:
    flat = [rng.permutation(tie.size) for _ in range(int(np.prod(tie.along)))]
    orders[tie.name] = np.stack(flat).reshape(tie.shape)
  return orders


def kept(params, rules):
  """The magnitude that N:M keeps, in all: the oracle sorts every group."""
  total = 0.
  for path, w in trees.align(params):
    pattern = next((rule for regex, rule in rules.items()
                    if re.fullmatch(regex, path)), None)
    if pattern is None:
      continue
    n, m, axis = re.fullmatch(
        r'nm\((\d+), (\d+)(?:, axis=(.*))?\)', pattern.name).groups()
    axes = np.atleast_1d(ast.literal_eval(axis or '-2')) % w.ndim
    rest = [axis for axis in range(w.ndim) if axis not in axes]
    groups = np.abs(np.float64(w)).transpose(*rest, *axes).reshape(-1, int(m))
    total += np.sort(groups, 1)[:, -int(n):].sum()
  return total


# All models of the zoo.

@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_no_less_is_kept_and_outputs_stay(build):
  case = build()
  params = jax.tree.map(np.asarray, case.params)  # Compiles nothing.
  fn = jax.jit(case.fn)
  expected = fn(case.params, *case.inputs)
  ties = infer_ties(case.fn, case.params, *case.inputs, check=False)
  by_name = {tie.name: tie for tie in ties}
  for pattern in (nm(1, 2), nm(2, 4), nm(1, 3), nm(2, 5), nm(1, 7)):
    try:
      rules = kernel_patterns(
          case.fn, case.params, *case.inputs, pattern=pattern)
    except ValueError as error:
      assert 'dense' in str(error) or 'nothing' in str(error), error
      continue
    orders = find_permutations(params, ties, rules, budget=10)
    for name, order in orders.items():
      assert order.dtype == np.int32 and order.shape == by_name[name].shape
      np.testing.assert_array_equal(np.sort(order, -1), np.broadcast_to(
          np.arange(by_name[name].size), order.shape))
    permuted = permute(params, ties, orders)
    assert kept(permuted, rules) >= kept(params, rules) * (1 - 1e-6)
    if orders:
      same(fn(permuted, *case.inputs), expected)


# A stack with everything: what is read by whom.

def stack(p, x):
  """Layers read and write a stream; heads, and hidden units, are their own."""
  x = x @ p['in']
  def layer(x, p):
    h = jax.nn.relu(x @ p['up'] + p['bias'][None])
    return x + h @ p['down'], None
  x, _ = jax.lax.scan(layer, x, p['layers'])
  return x @ p['out']


def stack_params(width=16, hidden=32, layers=3):
  return weights({
      'in': (4, width), 'out': (width, 3),
      'layers': {'up': (layers, width, hidden), 'bias': (layers, hidden),
                 'down': (layers, hidden, width)}})


X = data(N, 4)


def test_every_layer_has_its_own_order():
  params = stack_params()
  rules = {'layers/down': nm(2, 4)}
  ties = infer_ties(stack, params, X)
  orders = find_permutations(params, ties, rules, budget=100)
  (name, order), = orders.items()
  tie, = (tie for tie in ties if tie.name == name)
  assert tie.along == (3,) and order.shape == (3, 32)
  assert len({tuple(row) for row in order}) == 3
  permuted = permute(params, ties, orders)
  for i in range(3):
    one = {'down': params['layers']['down'][i]}
    alone = {'down': permuted['layers']['down'][i]}
    assert kept(alone, {'down': nm(2, 4)}) > kept(one, {'down': nm(2, 4)})
    np.testing.assert_array_equal(
        np.asarray(params['layers']['bias'][i])[order[i]],
        permuted['layers']['bias'][i])
  same(stack(permuted, X), stack(params, X))


def test_readers_of_a_stream_are_searched_jointly():
  """In sum they keep more, though one alone might keep less."""
  params = stack_params()
  rules = {'layers/up|out': nm(2, 4)}
  ties = infer_ties(stack, params, X)
  orders = find_permutations(params, ties, rules, budget=200)
  (_, order), = orders.items()
  assert order.shape == (16,)
  together = np.concatenate(
      [*np.asarray(params['layers']['up']).swapaxes(0, 0), params['out']], 1)
  expected = jaxsparse.units.find_permutation(together, nm(2, 4), budget=200)
  got = kept({'w': together[order]}, {'w': nm(2, 4)})
  assert got >= 0.999 * kept({'w': together[expected]}, {'w': nm(2, 4)})
  assert got > kept({'w': together}, {'w': nm(2, 4)})


def attention(p, x):
  q, k, v = (jnp.einsum('ntd,dhk->nthk', x, p[i]) for i in 'qkv')
  shares = jax.nn.softmax(jnp.einsum('nthk,nshk->nhts', q, k))
  y = jnp.einsum('nhts,nshk->nthk', shares, v)
  return jnp.einsum('nthk,hkd->ntd', y, p['out'])


def attention_params():
  return weights({'q': (6, 2, 16), 'k': (6, 2, 16), 'v': (6, 2, 16),
                  'out': (2, 16, 10)})


def test_every_head_has_its_own_order():
  params, x = attention_params(), data(2, 3, 6)
  ties = infer_ties(attention, params, x)
  rules = {'out': nm(2, 4)}  # Axis -2 is that of a head's values.
  orders = find_permutations(params, ties, rules, budget=200)
  (name, order), = orders.items()
  assert order.shape == (2, 16) and (order[0] != order[1]).any()
  after = permute(params, ties, orders)
  for head in range(2):
    one, two = ({'w': w['out'][head]} for w in (params, after))
    assert kept(two, {'w': nm(2, 4)}) > kept(one, {'w': nm(2, 4)})
  same(attention(after, x), attention(params, x))


def test_heads_and_values_joined_are_searched_too():
  """`kernel_patterns` joins both axes; whatever is found may not keep less."""
  params, x = attention_params(), data(2, 3, 6)
  rules = kernel_patterns(attention, params, x, pattern=nm(2, 4))
  ties = infer_ties(attention, params, x)
  orders = find_permutations(params, ties, rules, budget=200)
  after = permute(params, ties, orders)
  assert kept(after, rules) > kept(params, rules)
  same(attention(after, x), attention(params, x))


def test_kernels_of_one_tie_with_other_patterns_are_refused():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  with pytest.raises(ValueError, match='layers/up|out'):
    find_permutations(
        params, ties, {'layers/up': nm(2, 4), 'out': nm(1, 4)}, budget=2)


def test_rules_that_match_nothing_are_refused():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  with pytest.raises(ValueError, match='kernl'):
    find_permutations(params, ties, {'kernl': nm(2, 4)}, budget=2)


def test_other_patterns_and_dense_rules_do_not_matter():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  assert find_permutations(
      params, ties, {'layers/up': unstructured(), 'out': None}) == {}


def test_patterns_along_outputs_do_not_matter():
  """N:M along the outputs of what makes units moves with what reads them."""
  params = stack_params()
  ties = infer_ties(stack, params, X)
  rules = {'layers/up': nm(2, 4, axis=-1)}
  orders = find_permutations(params, ties, rules, budget=20)
  after = permute(params, ties, orders)
  assert kept(after, rules) >= kept(params, rules) * (1 - 1e-6)
  same(stack(after, X), stack(params, X))


def test_scores_may_be_searched_instead_of_weights():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  scores = jax.tree.map(lambda w: w[..., ::-1] ** 2, params)
  rules = {'layers/down|layers/up|out': nm(2, 4)}
  orders = find_permutations(scores, ties, rules, budget=50)
  assert kept(permute(scores, ties, orders), rules) > kept(scores, rules)


def test_a_seed_gives_one_result_and_a_budget_of_zero_none():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  rules = {'layers/down': nm(2, 4)}
  find = functools.partial(find_permutations, params, ties, rules)
  same(find(budget=20, seed=1), find(budget=20, seed=1))
  for order in find(budget=0).values():
    np.testing.assert_array_equal(
        order, np.broadcast_to(np.arange(order.shape[-1]), order.shape))


def test_progress_sees_every_search():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  seen = []
  def progress(sweeps):
    seen.append(0)
    for sweep in sweeps:
      seen[-1] += 1
      yield sweep
  find_permutations(params, ties, {'layers/down': nm(2, 4)}, budget=7,
                    progress=progress)
  assert len(seen) == 3 and all(0 < count <= 7 for count in seen)


# What follows the parameters.

def loss(fn, target):
  def loss(params, x):
    return jnp.mean((fn(params, x) - target) ** 2)
  return loss


def sparse(inner, rule=None, flow=None):
  rule = rule or jaxsparse.prune({'layers/.*(up|down)': nm(2, 4)})
  return jaxsparse.sparsify(standard(inner), rule, flow or jaxsparse.hard())


RULES = {'layers/.*(up|down)': nm(2, 4)}
OPTIMIZERS = {
    'sgd': lambda: standard(optax.sgd(0.1)),
    'momentum': lambda: standard(optax.sgd(0.1, momentum=0.9, nesterov=True)),
    'adam': lambda: standard(optax.adam(1e-2, eps=1e-3)),
    'multi_steps': lambda: standard(optax.MultiSteps(
        optax.adam(1e-2, eps=1e-3), 2)),
    'masked': lambda: standard(optax.chain(optax.masked(
        optax.trace(0.9),
        lambda params: jax.tree.map(lambda w: w.ndim > 2, params)),
        optax.scale(-0.1))),
    'partition': lambda: standard(optax.partition(
        {'a': optax.adam(1e-2, eps=1e-3), 'b': optax.sgd(0.1, momentum=0.9)},
        lambda params: {'in': 'a', 'out': 'b',
                        'layers': {'up': 'a', 'bias': 'b', 'down': 'b'}})),
    'injected': lambda: standard(optax.inject_hyperparams(optax.adam)(
        learning_rate=1e-2, eps=1e-3)),
    'schedule_free': lambda: standard(optax.contrib.schedule_free_sgd(0.1)),
    'sparsify': lambda: sparse(optax.adam(1e-2, eps=1e-3)),
    'sparsify_outside': lambda: standard(optax.MultiSteps(
        sparse(optax.adam(1e-2, eps=1e-3)), 2)),
    'rigl': lambda: sparse(optax.adam(1e-2, eps=1e-3), jaxsparse.prune_and_grow(
        {'layers/.*(up|down)': unstructured()}, sparsity=0.75,
        grow=jaxsparse.gradient(), when=schedules.every(2))),
    'sr_ste': lambda: jaxsparse.sparsify(
        standard(optax.adam(1e-2, eps=1e-3)),
        jaxsparse.methods.sr_ste(RULES, 8)),
    'mdgf': lambda: jaxsparse.sparsify(
        standard(optax.adam(1e-2, eps=1e-3)),
        jaxsparse.methods.mdgf_linear(RULES, 8)),
    'top_kast': lambda: jaxsparse.sparsify(
        standard(optax.adam(1e-2, eps=1e-3)),
        jaxsparse.methods.top_kast(RULES, 8, every=2)),
    'observed': lambda: jaxsparse.observe(sparse(optax.adam(1e-2, eps=1e-3))),
}

# Masks of N:M groups are made anew, so that only orders that keep groups, or
# no new masks, leave the training as it is.
REMASKED = {'sparsify', 'sparsify_outside', 'sr_ste', 'mdgf', 'top_kast',
            'observed'}


def grouped(ties, seed=0):
  """Orders in which groups of four move as wholes, and units inside them."""
  rng = np.random.default_rng(seed)
  def one(size):
    groups = rng.permutation(size // 4)
    return np.concatenate([4 * g + rng.permutation(4) for g in groups])
  return {tie.name: np.stack([one(tie.size) for _ in range(
      int(np.prod(tie.along)))]).reshape(tie.shape) for tie in ties.free}


def trainer(tx, objective=None):
  """Returns `run(params, state, steps)`, which is compiled once."""
  objective = objective or loss(stack, data(N, 3))

  @jax.jit
  def step(params, state):
    at = params
    if trees.nodes(state, jaxsparse.SparseState):
      at = jaxsparse.sparse_params(params, state)
    updates, state = tx.update(jax.grad(objective)(at, X), state, params)
    return optax.apply_updates(params, updates), state

  def run(params, state, steps):
    for _ in range(steps):
      params, state = step(params, state)
    return params, state
  return run


@functools.cache
def small_stack():
  params = stack_params(8, 12, 2)
  return params, infer_ties(stack, params, X, check=False)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_step_of_what_is_permuted_is_what_is_permuted_of_a_step(name):
  tx, (params, ties) = OPTIMIZERS[name](), small_stack()
  run = trainer(tx)
  orders = grouped(ties) if name in REMASKED else shuffled(ties)
  before = run(params, jax.jit(tx.init)(params), 3)
  moved = permute(before, ties, orders)
  assert differs(moved[0], before[0])
  same(run(*moved, 2), permute(run(*before, 2), ties, orders), 5 * SAME)


@pytest.mark.parametrize('tx, leaf', [
    (optax.adafactor(1e-2, min_dim_size_to_factor=4), 'v_row|v_col'),
    (optax.scale_by_lbfgs(memory_size=3), 'memory')])
def test_state_of_other_shapes_follows_or_is_refused_by_its_name(tx, leaf):
  tx, (params, ties) = standard(tx), small_stack()
  run, orders = trainer(tx), shuffled(ties)
  before = run(params, jax.jit(tx.init)(params), 3)
  try:
    moved = permute(before, ties, orders)
  except ValueError as error:
    assert re.search(leaf, str(error))
    return
  same(run(*moved, 2), permute(run(*before, 2), ties, orders), 5 * SAME)


def test_masks_follow():
  params = stack_params()
  ties = infer_ties(stack, params, X, check=False)
  masks = jaxsparse.prune({'.*(up|down)': nm(2, 4)}).init(params).masks
  orders = shuffled(ties)
  after, moved = permute((params, masks), ties, orders)
  assert moved['in'] is None and moved['layers']['bias'] is None
  same(jaxsparse.apply_masks(after, moved),
       permute(jaxsparse.apply_masks(params, masks), ties, orders))
  assert moved['layers']['up'].dtype == bool
  same(stack(jaxsparse.apply_masks(after, moved), X),
       stack(jaxsparse.apply_masks(params, masks), X))


class Net(nn.Module):

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8, name='in')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    return nn.Dense(3, name='out')(x)


def test_running_averages_and_an_optimizer_of_the_params_alone():
  apply, variables = linen(Net(), X)
  ties = infer_ties(apply, variables, X)
  assert any('batch_stats/norm/mean' in {m.path for m in tie.members}
             for tie in ties.free)
  tx = standard(optax.adam(1e-2, eps=1e-3))
  target = data(N, 3)

  def step(variables, state):
    def objective(params):
      with (jax.numpy_dtype_promotion('standard'),
            jax.numpy_rank_promotion('allow')):
        y, new = Net().apply({**variables, 'params': params}, X, train=True,
                             mutable=['batch_stats'])
      return jnp.mean((y - target) ** 2), new
    grads, new = jax.grad(objective, has_aux=True)(variables['params'])
    updates, state = tx.update(grads, state, variables['params'])
    return {'params': optax.apply_updates(variables['params'], updates),
            **new}, state
  before = step(variables, tx.init(variables['params']))
  orders = shuffled(ties)
  moved = permute(before, ties, orders)
  assert differs(moved[1], before[1])
  same(step(*moved), permute(step(*before), ties, orders))
  same(apply(moved[0], X), apply(before[0], X))


class Mlp(nnx.Module):

  def __init__(self, rngs):
    self.inner = nnx.Linear(4, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
    self.outer = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, x):
    with (jax.numpy_dtype_promotion('standard'),
          jax.numpy_rank_promotion('allow')):
      return self.outer(nnx.relu(self.norm(self.inner(x))))


def test_state_of_an_nnx_optimizer_follows():
  model = Mlp(nnx.Rngs(0))
  optimizer = nnx.Optimizer(
      model, standard(optax.adam(1e-2, eps=1e-3)), wrt=nnx.Param)
  target = data(N, 3)

  def step(model, optimizer):
    grads = nnx.grad(lambda m: jnp.mean((m(X) - target) ** 2))(model)
    optimizer.update(model, grads)
  step(model, optimizer)
  graphdef, state = nnx.split((model, optimizer))
  model_def, params = nnx.split(model)
  fn = lambda params, x: nnx.merge(model_def, params)(x)
  ties = infer_ties(fn, params, X)
  orders = shuffled(ties)
  assert orders
  moved = permute(state, ties, orders)
  assert isinstance(moved, nnx.State)
  assert differs(moved, state)
  other, its = nnx.merge(graphdef, moved)
  np.testing.assert_allclose(other(X), model(X), atol=1e-5)
  step(other, its)
  step(model, optimizer)
  same(nnx.state((other, its)),
       permute(nnx.state((model, optimizer)), ties, orders))


def mlp(p, x):
  h = jnp.tanh(x @ p['w1'])
  return h @ p['w2']


def mlp_params(dtype=jnp.float32):
  p = weights({'w1': (4, 8), 'w2': (8, 3)})
  return jax.tree.map(lambda w: w.astype(dtype), p)


ORDER = np.array([3, 1, 0, 7, 6, 5, 2, 4])
NAME = 'w1[:, *]'


@pytest.fixture(name='ties', scope='module')
def _ties():
  return infer_ties(mlp, mlp_params(), X)


@pytest.mark.parametrize('dtype', [
    jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8, bool,
    jnp.float8_e4m3fn, jnp.complex64])
@pytest.mark.parametrize('module', [np, jnp])
def test_arrays_stay_what_they_are(ties, dtype, module):
  params = jax.tree.map(
      lambda w: module.asarray(w.astype(dtype)), mlp_params())
  got = permute(params, ties, {NAME: ORDER})
  for key, axis in (('w1', 1), ('w2', 0)):
    assert type(got[key]) is type(params[key])
    assert got[key].dtype == params[key].dtype
    np.testing.assert_array_equal(
        np.asarray(got[key]), np.take(np.asarray(params[key]), ORDER, axis))


@pytest.mark.parametrize('dtype', [
    np.int32, np.int64, np.uint8, list, jnp.int32])
def test_orders_of_any_integer_type(ties, dtype):
  order = (ORDER.tolist() if dtype is list else
           jnp.asarray(ORDER) if dtype is jnp.int32 else ORDER.astype(dtype))
  same(permute(mlp_params(), ties, {NAME: order}),
       permute(mlp_params(), ties, {NAME: ORDER}))


def test_numpy_inputs_are_not_written_to(ties):
  params = jax.tree.map(np.array, mlp_params())
  copy = jax.tree.map(np.copy, params)
  got = permute(params, ties, {NAME: ORDER})
  same(params, copy, 0)
  got['w1'][:] = 0
  same(params, copy, 0)


def test_no_permutations_change_nothing(ties):
  params = mlp_params()
  same(permute(params, ties, {}), params, 0)


def test_two_permutations_follow_each_other(ties):
  once = permute(mlp_params(), ties, {NAME: ORDER})
  back = permute(once, ties, {NAME: np.argsort(ORDER)})
  same(back, mlp_params(), 0)


def test_in_bf16_outputs_stay(ties):
  params = mlp_params(jnp.bfloat16)
  x = X.astype(jnp.bfloat16)
  same(mlp(permute(params, ties, {NAME: ORDER}), x), mlp(params, x), 2e-2)


def test_works_under_jit(ties):
  params = mlp_params()
  got = jax.jit(lambda p: permute(p, ties, {NAME: ORDER}))(params)
  same(got, permute(params, ties, {NAME: ORDER}), 0)


def test_sharded_arrays_stay_where_they_are(ties):
  mesh = Mesh(np.array(jax.devices()), ('x',))
  specs = {'w1': PartitionSpec(None, 'x'), 'w2': PartitionSpec('x', None)}
  params = {key: jax.device_put(w, NamedSharding(mesh, specs[key]))
            for key, w in mlp_params().items()}
  got = permute(params, ties, {NAME: ORDER})
  for key, w in params.items():
    assert not w.is_deleted()
    assert got[key].sharding.is_equivalent_to(w.sharding, w.ndim)
  same(got, permute(mlp_params(), ties, {NAME: ORDER}), 0)
  found = find_permutations(params, ties, {'w2': nm(2, 4)}, budget=5)
  same(found, find_permutations(mlp_params(), ties, {'w2': nm(2, 4)}, budget=5))


def test_shapes_of_arrays_give_ties_too():
  shapes = jax.eval_shape(lambda: mlp_params())
  ties = infer_ties(mlp, shapes, jax.ShapeDtypeStruct(X.shape, X.dtype))
  same(permute(mlp_params(), ties, {NAME: ORDER}),
       permute(mlp_params(), infer_ties(mlp, mlp_params(), X), {NAME: ORDER}))


FIXED = 'w1[*]'


@pytest.mark.parametrize('orders, says', [
    ({NAME: ORDER[:-1]}, 'shape|8'),
    ({NAME: np.zeros(8, int)}, 'permutation|0'),
    ({NAME: ORDER + 1}, 'permutation'),
    ({NAME: ORDER - 1}, 'permutation'),
    ({NAME: ORDER.astype(float)}, 'int'),
    ({NAME: ORDER == 1}, 'int|permutation'),
    ({NAME: ORDER[None]}, 'shape'),
    ({NAME: ''}, 'int|shape|permutation'),
    ({NAME: None}, 'int|shape|permutation'),
    ({'w3[:, *]': ORDER}, 'w3'),
    ({FIXED: np.arange(4)[::-1]}, 'fixed|input of the function'),
    ({'w1': ORDER}, 'w1'),
    ({NAME: ORDER, 'nothing': ORDER}, 'nothing'),
])
def test_what_is_no_permutation_is_refused(ties, orders, says):
  with pytest.raises(ValueError, match=says):
    permute(mlp_params(), ties, orders)


@pytest.mark.parametrize('tree', [
    {'w1': np.ones((4, 8))}, {'w1': np.ones((4, 9)), 'w2': np.ones((9, 3))},
    {'w1': np.ones(8), 'w2': np.ones((8, 3))}, {}, [], None,
    {'v1': np.ones((4, 8)), 'v2': np.ones((8, 3))},
    {'w1': np.ones((4, 8)), 'w2': np.ones((7, 3))},
], ids=str)
def test_trees_that_do_not_match_are_refused(ties, tree):
  with pytest.raises(ValueError, match='w1|w2'):
    permute(tree, ties, {NAME: ORDER})


# Paths that end alike.

def ambiguous(p, x):
  """Two layers with names of which one is the end of the other."""
  h = jnp.tanh(x @ p['w'])
  h = jnp.tanh(h @ p['mu']['w'])
  return h @ p['nu']['w']


def ambiguous_params():
  return weights({'w': (4, 4), 'mu': {'w': (4, 4)}, 'nu': {'w': (4, 4)}})


def test_names_that_end_alike_are_told_apart():
  params = ambiguous_params()
  ties = infer_ties(ambiguous, params, X)
  orders = {tie.name: np.roll(np.arange(4), 1) for tie in ties.free}
  assert len(orders) == 2
  same(ambiguous(permute(params, ties, orders), X), ambiguous(params, X))
  for name in orders:
    one = {name: orders[name]}
    same(ambiguous(permute(params, ties, one), X), ambiguous(params, X))


@pytest.mark.parametrize('name', ['adam', 'momentum', 'sparsify'])
def test_parameters_called_as_fields_of_the_optimizer(name):
  """Adam's `mu` of `w` has the path `0/mu/w`, a parameter is called `mu/w`."""
  tx = {'adam': optax.adam(1e-2, eps=1e-3), 'momentum': optax.sgd(
      0.1, momentum=0.9), 'sparsify': jaxsparse.sparsify(
          optax.adam(1e-2, eps=1e-3), jaxsparse.lock())}[name]
  tx = standard(tx)
  params = ambiguous_params()
  if name == 'momentum':
    rename = lambda p: {'w': p['w'], 'mu': p['trace'], 'nu': p['nu']}
    params = {'w': params['w'], 'trace': params['mu'], 'nu': params['nu']}
    fn = lambda p, x: ambiguous(rename(p), x)
  else:
    fn = ambiguous
  ties = infer_ties(fn, params, X)
  run = trainer(tx, loss(fn, data(N, 4)))
  before = run(params, jax.jit(tx.init)(params), 2)
  for tie in ties.free:
    orders = {tie.name: np.roll(np.arange(4), 1)}
    moved = permute(before, ties, orders)
    same(fn(moved[0], X), fn(before[0], X))
    same(run(*moved, 2), permute(run(*before, 2), ties, orders))


def test_more_than_one_copy_of_the_parameters_follows(ties):
  params = mlp_params()
  tree = {'online': params, 'target': [params, {'ema': params}], 'step': 3,
          'name': None}
  got = permute(tree, ties, {NAME: ORDER})
  expected = permute(params, ties, {NAME: ORDER})
  same(got['online'], expected, 0)
  same(got['target'][0], expected, 0)
  same(got['target'][1]['ema'], expected, 0)
  assert got['step'] == 3 and got['name'] is None


def test_a_leaf_that_only_ends_alike_is_no_parameter(ties):
  """`row1` ends with `w1` as a string, not as a path."""
  tree = {**mlp_params(), 'row1': jnp.arange(32.).reshape(4, 8)}
  got = permute(tree, ties, {NAME: ORDER})
  np.testing.assert_array_equal(got['row1'], tree['row1'])
