"""Trained networks to prune: a run of `experiments.train`, or one of a package.

Parameters are nested dicts of arrays, whatever library trained them, so reading
their checkpoints needs only Orbax.
"""

from collections.abc import Callable
from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

from flax import nnx
from flax import traverse_util
import jax
import ml_collections

from experiments import data
from experiments import models
from experiments._utils import names
from experiments.data import dataset as datasets
from experiments.data import files
from experiments.models import magika
from experiments.pruning import averages
from experiments.pruning import plan
from experiments.records import checkpoints
from experiments.records import workdir as workdirs
from experiments.training import runs
from experiments.training import steps

PyTree = Any


class Data(NamedTuple):
  """The data of one seed to calibrate with and to measure with; disjoint."""
  calibration: list[Any]  # Batches of inputs.
  judged: list[data.Batch]


class Network(NamedTuple):
  """A trained network, and its data."""
  apply: Callable[[PyTree, Any], jax.Array]  # To logits, as in an evaluation.
  # The same to calibrate with: batch norms normalise by the batch.
  by_batch: Callable[[PyTree, Any], jax.Array]
  params: PyTree  # With the running averages of batch norms, if it has any.
  sparse: str  # Regex of the kernels that may be sparse.
  task: str
  draw: Callable[[int], Data]  # From a seed.
  # From pruned params and batches to params with averages of their own.
  settle: Callable[[PyTree, Sequence[Any]], PyTree]
  title: str
  data: str  # The fingerprint of its data.

  @property
  def weights(self) -> str:
    """A fingerprint of the weights."""
    return checkpoints.digest(self.params)[:12]


def load(config: ml_collections.ConfigDict, seed: int) -> Network:
  """Returns the network that `config.source` names.

  Args:
    config: of `plan.checked`.
    seed: chooses the network, if there is one for each seed.

  Raises:
    ValueError: if there is none, or not enough data.
  """
  network = names.lookup(_SOURCES, config.source, kind='source')(config, seed)
  return network._replace(sparse=config.sparse or network.sparse)


def _magika(config, seed):
  """The classifier of files; a seed draws what is calibrated and judged."""
  del seed  # There is one network.
  network = magika.load()
  listing = files.find(config.folders)

  def draw(seed):
    judged, calibration = files.draw(
        listing, (config.judged, config.calibration), classes=network.types,
        seed=seed, cap=config.files_of_a_type, ends=magika.BYTES,
        no_byte=magika.NO_BYTE)
    inputs = calibration.inputs
    return Data(
        [inputs[start:start + config.batch_size]
         for start in range(0, len(inputs), config.batch_size)],
        [*datasets.in_batches(len(judged.labels), lambda rows: data.Batch(
            judged.inputs[rows], judged.labels[rows]))])

  return Network(magika.apply, magika.apply, network.params, magika.SPARSE,
                 datasets.FILES, draw, _settled, 'magika on files',
                 listing.fingerprint)


def _settled(params, batches):
  """Of a network without batch norms."""
  del batches
  return params


def _run(config, seed):
  """A run; its seed draws what is calibrated, the test set is the run's."""
  path = pathlib.Path((config.run or '').replace(plan.SEED, str(seed)))
  if not config.run or not (path / workdirs.CONFIG).exists():
    raise ValueError(
        'config.run must be the --workdir of a finished run of '
        f'experiments.train, got {str(path)!r}. Write: python -m '
        f'experiments.train --config=... --workdir={config.run or "runs/mine"}')
  trained, run, dataset, state = runs.restore(str(path))
  variables = steps.variables(steps.sparse(state))

  def draw(seed):
    sizes = _batch_sizes(config.calibration, config.batch_size)
    return Data(
        [dataset.train(seed, step, size).inputs
         for step, size in enumerate(sizes, start=1)],
        _first(dataset.test(), config.judged))

  def apply(params, inputs):
    return run.apply(_like(variables, params), inputs)

  by_batch, settle = apply, _settled
  if jax.tree.leaves(state.averages):
    normed = averages.by_batch(
        models.create(trained, dataset, rngs=nnx.Rngs(0)))

    def by_batch(params, inputs):
      return normed(_like(variables, params), inputs)[0]

    def settle(params, batches):
      return _plain(averages.renewed(normed, _like(variables, params), batches))

  return Network(
      apply, by_batch, _plain(variables),
      trained.sparse or models.sparse_leaves(trained.model),
      dataset.task, draw, settle,
      f'{trained.model} on {trained.dataset}', dataset.fingerprint)


_SOURCES = {'magika': _magika, 'run': _run}


def _batch_sizes(count, size):
  """Sizes of batches, all the same except the last, which has the rest."""
  return [min(size, count - start) for start in range(0, count, size)]


def _first(batches, count):
  """The first examples; what is beyond them is marked as padding."""
  kept = []
  for batch in batches:
    if count <= 0:
      break
    labels = batch.labels.copy()
    labels[count:] = datasets.PADDING
    kept.append(batch._replace(labels=labels))
    count -= len(labels)
  return kept


def _plain(variables):
  """Dicts of arrays, without Flax."""
  return traverse_util.unflatten_dict({
      tuple(map(str, path)): variable[...]
      for path, variable in nnx.to_flat_state(variables)})


def _like(variables, params):
  """The inverse of `_plain`."""
  arrays = traverse_util.flatten_dict(params)
  return nnx.from_flat_state([
      (path, variable.replace(arrays[tuple(map(str, path))]))
      for path, variable in nnx.to_flat_state(variables)])
