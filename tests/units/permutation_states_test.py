"""Optimizers, masks and averages follow the params that are permuted."""

import functools
import re

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import infer_ties
from jaxsparse import nm
from jaxsparse import permute
from jaxsparse import schedules
from jaxsparse import unstructured
from jaxsparse._utils import trees
from tests._lib.near import differs
from tests._lib.near import SAME
from tests._lib.near import same
from tests._lib.permutations import N
from tests._lib.permutations import shuffled
from tests._lib.permutations import stack
from tests._lib.permutations import stack_params
from tests._lib.permutations import standard
from tests._lib.permutations import X
from tests._lib.zoo_case import data
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import weights

pytestmark = pytest.mark.slow


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
    if trees.nodes(state, jaxsparse.transform.SparseState):
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
  # Of arrays of numpy a permutation compiles nothing.
  before = jax.device_get(run(params, jax.jit(tx.init)(params), 3))
  moved = permute(before, ties, orders)
  assert differs(moved[0], before[0])
  same(run(*moved, 2), permute(
      jax.device_get(run(*before, 2)), ties, orders), 5 * SAME)


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

  @jax.jit
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

  @nnx.jit
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
  before = jax.device_get(run(params, jax.jit(tx.init)(params), 2))
  for tie in ties.free:
    orders = {tie.name: np.roll(np.arange(4), 1)}
    moved = permute(before, ties, orders)
    same(fn(moved[0], X), fn(before[0], X))
    same(run(*moved, 2), permute(
        jax.device_get(run(*before, 2)), ties, orders))
