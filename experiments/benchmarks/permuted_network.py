r"""Measures how a permutation of channels helps a trained network.

  python -m experiments.benchmarks.permuted_network
  python -m experiments.benchmarks.permuted_network \
      --networks=lm --steps=800 --context=32

A network is trained dense, once per seed. It is then pruned to N:M in one shot,
once with its channels permuted and once without, and retrained with fixed masks
by a new optimizer. Both variants see the same batches, so with one seed they
differ only in the order of channels. (Do not compare retrained networks with
the dense one: they were trained for longer.)

`Kept` is the share of the sparse kernels' magnitude that masks keep. Numbers
are means over seeds ± half of their 95% interval. Differences are permuted
minus unpermuted, paired by seed. In bold, the interval excludes zero, which
happens by chance in one of twenty cases.
"""

import collections
from collections.abc import Sequence

from absl import app
from absl import flags
import ml_collections

from experiments import data
from experiments._utils import names
from experiments.benchmarks import timing
from experiments.configs.digits import dense
from experiments.configs.digits import dense_resnet
from experiments.configs.digits import dense_vit
from experiments.configs.python_source import dense as lm_dense
from experiments.records import metrics
from experiments.reporting import tables
from experiments.training import channels
from experiments.training import methods
from experiments.training import optimizers
from experiments.training import runs
from experiments.training import steps
import jaxsparse
from jaxsparse import methods as methods_lib

_NETWORKS = flags.DEFINE_list(
    'networks', ['mlp', 'vit'], 'Any of mlp, vit, resnet and lm.')
_TARGETS = flags.DEFINE_list('targets', ['2:4', '1:4'], 'N:M.')
_SEEDS = flags.DEFINE_integer('seeds', 5, 'How many.', lower_bound=2)
_BUDGET = flags.DEFINE_integer('budget', 4000, 'Sweeps of each search.')
_STEPS = flags.DEFINE_integer(
    'steps', None, 'Steps of dense training; by default those of the config.')
_RETRAIN_STEPS = flags.DEFINE_integer(
    'retrain_steps', None, 'Steps of retraining; by default half of --steps.')
_CONTEXT = flags.DEFINE_integer('context', 64, 'Bytes that lm sees at once.')
_SPARSE = flags.DEFINE_string(
    'sparse', None, 'Regex of the sparse kernels; by default the model\'s own.')

_CONFIGS = {'mlp': dense, 'vit': dense_vit, 'resnet': dense_resnet,
            'lm': lm_dense}
_KEPT = metrics.Metric('Kept', 100, '%', 1, True)

Pairs = list[Sequence[float]]  # Unpermuted and permuted; a pair per seed.


def dense_config(network: str) -> ml_collections.ConfigDict:
  """Returns the config of a dense network, with the changes of the flags."""
  config = names.lookup(_CONFIGS, network, kind='network').get_config()
  config.update(sparse=_SPARSE.value, context=_CONTEXT.value, observe=False)
  config.steps = _STEPS.value or config.steps
  return config


def sparse_config(config: ml_collections.ConfigDict, target: str
                  ) -> ml_collections.ConfigDict:
  """Returns the config for retraining a dense network with N:M masks."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.n, config.m = map(int, target.split(':'))
  config.steps = _RETRAIN_STEPS.value or config.steps // 2
  return config


def train(config: ml_collections.ConfigDict, run: steps.Steps,
          dataset: data.Dataset, state: steps.State, *, seed: int,
          after: int = 0) -> steps.State:
  """Trains for `config.steps`, on the batches that follow those `after`."""
  for step in range(after + 1, after + config.steps + 1):
    state, _ = run.train(state, dataset.train(seed, step, config.batch_size))
  return state


def train_dense(config: ml_collections.ConfigDict, run: steps.Steps,
                dataset: data.Dataset) -> list[steps.State]:
  """Returns one dense network per seed."""
  return [
      train(config, run, dataset, run.init(
          steps.new_variables(config, dataset, seed=seed)), seed=seed)
      for seed in range(_SEEDS.value)]


def compare(config: ml_collections.ConfigDict, states: Sequence[steps.State],
            ties: jaxsparse.units.Ties, dataset: data.Dataset, *, after: int
            ) -> dict[str, Pairs]:
  """Prunes and retrains every dense network, unpermuted and permuted.

  Args:
    config: the config of the retraining.
    states: the dense networks.
    ties: the ties of the networks.
    dataset: the data set of the networks.
    after: the number of steps of dense training.
  """
  patterns = methods.nm_patterns(config)
  run = steps.create(config, jaxsparse.sparsify(
      optimizers.optimizer(config), methods_lib.train_prune_retrain(
          patterns, config.steps, prune_step=0)), dataset)
  found = collections.defaultdict(list)
  for seed, state in enumerate(states):
    permuted, kept = channels.permute(
        state, ties=ties, patterns=patterns, budget=_BUDGET.value)
    pruned = [run.init(steps.variables(s)) for s in (state, permuted)]
    found['kept'].append((kept['kept_before'], kept['kept_after']))
    found['one-shot'].append([judged(run, s, dataset) for s in pruned])
    found['retrained'].append([
        judged(run, train(config, run, dataset, s, seed=seed, after=after),
               dataset) for s in pruned])
  return found


def judged(run: steps.Steps, state: steps.State, dataset: data.Dataset
           ) -> float:
  """Returns the metric of the network."""
  row = run.measure(state, dataset.test())
  return row[metrics.judged_by(row)]


def cells(pairs: Pairs, metric: metrics.Metric) -> list[str]:
  """Returns the means of unpermuted, permuted, and their difference."""
  columns = [[metric.scale * value for value in each] for each in zip(*pairs)]
  differences = tables.estimate([b - a for a, b in zip(*columns)])
  text = tables.show(differences, metric.digits, sign='+')
  return [*(tables.show(tables.estimate(each), metric.digits)
            for each in columns),
          f'**{text}**' if abs(differences.mean) > differences.half else text]


def report(network: str) -> str:
  """Returns the table of one network."""
  config = dense_config(network)
  run, dataset = runs.create(config)
  states = train_dense(config, run, dataset)
  ties = jaxsparse.infer_ties(
      run.apply, steps.variables(states[0]),
      dataset.train(0, 1, config.batch_size).inputs)
  rows = [run.measure(state, dataset.test()) for state in states]
  key = metrics.judged_by(rows[0])
  metric = metrics.METRICS[key]
  lines = [[metric.axis_label, 'N:M', 'as it is', 'permuted', 'difference'],
           ['dense', '', tables.show(tables.estimate(
               [metric.scale * row[key] for row in rows]), metric.digits),
            '', '']]
  for target in _TARGETS.value:
    retraining = sparse_config(config, target)
    found = compare(retraining, states, ties, dataset, after=config.steps)
    lines += [
        [f'{name} (%)' if name == 'kept' else name, target,
         *cells(pairs, _KEPT if name == 'kept' else metric)]
        for name, pairs in found.items()]
  return (f'{network}, {len(states)} seeds, {config.steps:,} steps dense, '
          f'{retraining.steps:,} steps of retraining\n\n'
          f'{tables.markdown(lines)}\n')


def main(argv: list[str]):
  del argv
  print(timing.describe(), '\n')
  for network in _NETWORKS.value:
    print(report(network), flush=True)


if __name__ == '__main__':
  app.run(main)
