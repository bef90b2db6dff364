"""Reports a run without training it: parameters, patterns and costs."""

import time

import jax
import ml_collections
import numpy as np

from experiments import data
from experiments import models
from experiments.training import methods
from experiments.training import steps
import jaxsparse
from jaxsparse._utils import tables
from jaxsparse._utils import trees

Config = ml_collections.ConfigDict


def report(config: Config, run: steps.Steps, dataset: data.Dataset) -> str:
  """Returns the config, a table of parameters, and what a step takes.

  Args:
    config: of the run.
    run: its steps, on one device.
    dataset: what it trains on.
  """
  state = jax.eval_shape(run.init, None)
  return '\n\n'.join([
      config.to_json_best_effort(indent=2),
      _parameters(config, state), _costs(config, run, dataset, state)])


def _parameters(config, state):
  """A row for each parameter: is it sparse, in which pattern, and why."""
  masks = trees.nested_like(state.params,
                            jaxsparse.get_masks(state.opt_state))
  regex, whose = _regex(config)
  pattern = methods.pattern(config)
  matched = trees.match_rules({regex: True, '.*': False}, state.params)
  rows, sparse, total = [], 0, 0
  for path, w, mask, matches in trees.align(state.params, masks, matched):
    size = int(np.prod(w.shape))
    total += size
    if trees.is_dense(mask):
      why = (f'matches {whose}, but the method leaves it' if matches
             else f'does not match {whose}')
      rows.append((path, tables.shape_text(w.shape), f'{size:,}', 'dense', why))
    else:
      sparse += size
      why = f'matches {whose}' if matches else f'method {config.method!r}'
      rows.append((path, tables.shape_text(w.shape), f'{size:,}',
                   str(pattern or 'units'), why))
  head = [('parameter', 'shape', 'weights', 'pattern', 'why')]
  foot = [('sparse', '', f'{sparse:,}', '', ''),
          ('all', '', f'{total:,}', '', '')]
  return tables.table(head, rows, foot, right=[2]) + f'\n\n{whose}: {regex}'


def _regex(config):
  """Which parameters may be sparse, and who says so."""
  if config.sparse:
    return config.sparse, 'config.sparse'
  return (models.sparse_leaves(config.model),
          f'the regex of model {config.model}')


def _costs(config, run, dataset, state):
  batch = dataset.train(config.seed, 1, config.batch_size)
  since = time.perf_counter()
  lowered = run.train.lower(state, batch)
  traced = time.perf_counter() - since
  compiled = lowered.compile()
  seconds = time.perf_counter() - since
  flops = run.flops(steps.variables(state))
  rows = [
      ('dense FLOPs of a batch, forward', f'{flops.total:,}'),
      ('dense FLOPs of a training step', f'{flops.training():,.0f}'),
      ('training steps', f'{config.steps:,}'),
      ('bytes of params', f'{_bytes(state.params):,}'),
      ('bytes of the optimizer state, masks included',
       f'{_bytes(state.opt_state):,}')]
  if memory := compiled.memory_analysis():
    rows.append(('bytes of scratch memory in a step, by the compiler',
                 f'{memory.temp_size_in_bytes:,}'))
  rows.append(('seconds to trace and compile a step',
               f'{traced:.1f} + {seconds - traced:.1f}'))
  return tables.table([('costs, on one device', '')], rows, right=[1])


def _bytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
             if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key))
