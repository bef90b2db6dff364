"""Types as users see them: code that calls the library, for two readers.

Pytest runs it, and the type checker reads it with `jaxsparse`: `assert_type` is
a claim to the one, the `assert` beside it the same claim to the other.
"""

import importlib
import inspect
import pkgutil
from typing import assert_type, NamedTuple

import equinox
from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse import masks as masks_lib
from jaxsparse import schedules

_PACKAGES = [
    importlib.import_module(f'jaxsparse.{module.name}')
    for module in pkgutil.iter_modules(jaxsparse.__path__)
    if not module.name.startswith('_')]


class _Params(NamedTuple):
  kernel: jax.Array
  bias: jax.Array | None


def _functions(package):
  """Public functions and methods, by name."""
  for name in package.__all__:
    thing = getattr(package, name)
    if inspect.isclass(thing) and thing.__module__.startswith('jaxsparse.'):
      yield from ((f'{name}.{k}', f) for k, f in vars(thing).items()
                  if inspect.isfunction(f) and not k.startswith('_'))
    elif callable(thing) and hasattr(thing, '__module__'):
      yield name, thing


@pytest.mark.parametrize('package', _PACKAGES, ids=lambda p: p.__name__)
def test_every_public_function_tells_all_types(package):
  for name, function in _functions(package):
    if not inspect.isfunction(inspect.unwrap(function)):
      continue  # A class of another library, or an alias of types.
    signature = inspect.signature(function)
    silent = [key for key, parameter in signature.parameters.items()
              if parameter.annotation is parameter.empty and key != 'self']
    assert not silent, f'{name} does not say what {silent} are'
    assert signature.return_annotation is not signature.empty, name


def test_params_are_any_tree():
  layer = equinox.nn.Linear(2, 4, use_bias=False, key=jax.random.key(0))
  trees = (
      {'layer': {'kernel': jnp.ones((4, 2))}}, _Params(jnp.ones((4, 2)), None),
      [(jnp.ones((4, 2)),)], jnp.ones((4, 2)), layer,
      nnx.state(nnx.Linear(4, 2, use_bias=False, rngs=nnx.Rngs(0)), nnx.Param))
  tx = jaxsparse.sparsify(
      optax.sgd(1.), jaxsparse.prune({'.*': jaxsparse.nm(2, 4)}))
  for params in trees:  # Of the union of their types, for the type checker.
    state = tx.init(params)
    masks = jaxsparse.get_masks(state)
    sparse = jaxsparse.sparse_params(
        jaxsparse.apply_masks(params, masks), state)
    assert jax.tree.structure(sparse) == jax.tree.structure(params)
    made = jaxsparse.summary(params, masks)
    assert_type(made, masks_lib.Summary)
    assert isinstance(made, masks_lib.Summary)
    assert_type(made.sparsity, float)
    assert made.sparsity == 0.5
  masked = jaxsparse.apply_masks({'kernel': jnp.ones(2)}, {'kernel': None})
  assert masked['kernel'].shape == (2,)  # A tree as it was, not just a tree.


def test_results_that_are_no_trees_are_typed():
  w = jnp.arange(8.).reshape(4, 2)
  pattern = jaxsparse.nm(2, 4)
  assert_type(pattern, jaxsparse.Pattern)
  assert isinstance(pattern, jaxsparse.Pattern)
  mask = jaxsparse.select(jnp.abs(w), pattern)
  assert_type(mask, jax.Array)
  assert isinstance(mask, jax.Array)
  method = jaxsparse.methods.sr_ste({'.*': pattern}, 10)
  assert_type(method, jaxsparse.Method)
  assert isinstance(method, jaxsparse.Method)
  progress = jaxsparse.schedules.cubic(0, 10)(5)
  assert_type(progress, jax.Array)
  assert isinstance(progress, jax.Array)
  assert_type(jaxsparse.__version__, str)
  assert isinstance(jaxsparse.__version__, str)


def _own(step: jax.Array) -> jax.Array:
  return jnp.where(step > 3, 1., 0.)


def test_schedules_are_of_the_library_of_optax_or_functions_of_users():
  every = (_own, lambda step: 1., optax.linear_schedule(0., 1., 4),
           schedules.cubic(0, 4))
  for schedule in every:
    flow = jaxsparse.mdgf(schedule)
    assert_type(flow, jaxsparse.flows.Flow)
    assert flow.gain is schedule
    decayed = jaxsparse.sr_ste(schedule, decoupled=True)
    assert_type(decayed, jaxsparse.flows.Flow)
    assert isinstance(decayed, jaxsparse.flows.Flow)
