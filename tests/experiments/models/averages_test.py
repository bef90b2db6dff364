"""Running averages of batch norms, and networks of smaller arrays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import default
from experiments.records import checkpoints
from experiments.training import runs
from experiments.training import steps
from jaxsparse._utils import trees

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def _begun(name, **sizes):
  """A run of a model, its state where no two units are alike, and a batch."""
  config = default.get_config()
  config.update(model=name, method='dense', observe=False, batch_size=8,
                dataset='synthetic_clicks' if name == 'dlrm' else 'digits',
                optimizer='sgd', learning_rate_schedule='steps',
                weight_decay=1e-4, **sizes)
  run, dataset = runs.create(config)
  rng = np.random.default_rng(0)
  state = jax.tree.map(  # In numpy, which compiles nothing.
      lambda w: jnp.asarray(
          np.asarray(w) + rng.uniform(0, .1, w.shape).astype(w.dtype))
      if jnp.issubdtype(w.dtype, jnp.floating) else w, run.init(None))
  return run, state, dataset.train(0, 1, 8)


@pytest.fixture(scope='module', name='vgg')
def _vgg():
  return _begun('vgg', width=4, depth=11)


def test_averages_follow_the_batches_of_training(vgg):
  run, state, batch = vgg
  before = jax.tree.map(np.asarray, steps.variables(state))
  after, _ = run.train(jax.tree.map(jnp.copy, state), batch)
  y = np.asarray(jax.lax.conv_general_dilated(
      batch.inputs, before['convs'][0]['kernel'][...], (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
  norms = before['norms'][0], after.averages['norms'][0]
  for key, value in (('mean', y.mean((0, 1, 2))), ('var', y.var((0, 1, 2)))):
    old, new = (np.asarray(norm[key][...]) for norm in norms)
    np.testing.assert_allclose(new, .9 * old + .1 * value, rtol=1e-4)


def test_evaluation_reads_averages_and_no_other_example(vgg):
  run, state, batch = vgg
  apply = jax.jit(run.apply)
  logits = apply(steps.variables(state), batch.inputs)
  changed = batch.inputs.copy()
  changed[1:] = 0
  others = apply(steps.variables(state), changed)
  np.testing.assert_allclose(logits[0], others[0], rtol=1e-5)
  moved = state._replace(averages=jax.tree.map(lambda a: a + 1, state.averages))
  moved = apply(steps.variables(moved), batch.inputs)
  assert np.abs(moved - logits).min(-1).max() > 1e-3


def test_variables_make_a_new_state_averages_included(vgg):
  run, state, _ = vgg
  again = run.init(steps.variables(state))
  for ours, theirs in zip(again[::2], state[::2]):  # Params and averages.
    assert checkpoints.digest(ours) == checkpoints.digest(theirs)


def test_variables_are_the_params_where_there_are_no_averages():
  _, state, _ = _begun('mlp')
  assert not jax.tree.leaves(state.averages)
  assert (checkpoints.digest(steps.variables(state))
          == checkpoints.digest(state.params))


# Units that stay of the model of each name; reads: what reads those that go.
_KEPT = np.array([0, 2, 3])


_HEADS = (_KEPT[:, None] * 4 + np.arange(4)).reshape(-1)  # Four dimensions.
_QKV = (np.arange(3)[:, None] * 16 + _HEADS).reshape(-1)


@pytest.mark.parametrize('name, depth, width, reads, cuts', [
    ('vgg', 11, 4, 'convs/1/kernel', {
        'convs/0/kernel': (3, _KEPT), 'norms/0/': (0, _KEPT),
        'convs/1/kernel': (2, _KEPT)}),
    ('vgg', 11, 4, 'head/kernel', {
        'convs/7/kernel': (3, _KEPT), 'norms/7/': (0, _KEPT),
        'head/kernel': (0, _KEPT)}),
    ('resnet20', 8, 4, 'blocks/1/conv2/kernel', {
        'blocks/1/conv1/kernel': (3, _KEPT), 'blocks/1/norm1/': (0, _KEPT),
        'blocks/1/conv2/kernel': (2, _KEPT)}),
    ('resnet20', 8, 4, 'blocks/(0/conv1|1/conv1|1/shortcut)/kernel', {
        'stem/kernel': (3, _KEPT), 'stem_norm/': (0, _KEPT),
        'blocks/0/conv2/kernel': (3, _KEPT), 'blocks/0/norm2/': (0, _KEPT),
        'blocks/(0/conv1|1/conv1|1/shortcut)/kernel': (2, _KEPT)}),
    pytest.param('resnet50', 26, 4, 'blocks/1/conv3/kernel', {
        'blocks/1/conv2/kernel': (3, _KEPT), 'blocks/1/norm2/': (0, _KEPT),
        'blocks/1/conv3/kernel': (2, _KEPT)}, marks=pytest.mark.slow),
    ('vit', 1, 16, 'blocks/0/out/kernel', {
        'blocks/0/qkv/kernel': (1, _QKV), 'blocks/0/qkv/bias': (0, _QKV),
        'blocks/0/out/kernel': (0, _HEADS)}),
    ('vit', 1, 16, 'blocks/0/mlp_out/kernel', {
        'blocks/0/mlp_in/kernel': (1, _KEPT),
        'blocks/0/mlp_in/bias': (0, _KEPT),
        'blocks/0/mlp_out/kernel': (0, _KEPT)}),
    ('dlrm', 1, 4, 'head/kernel', {
        'top/0/kernel': (1, _KEPT), 'top/0/bias': (0, _KEPT),
        'head/kernel': (0, _KEPT)}),
    ('dlrm', 1, 4, '(bottom/1|top/0)/kernel|embedding/embedding', {
        'bottom/1/kernel': (1, _KEPT), 'bottom/1/bias': (0, _KEPT),
        'embedding/embedding': (1, _KEPT),
        'top/0/kernel': (0, np.delete(np.arange(368), 1))}),
], ids=['channels', 'read by the head', 'in a block', 'between blocks',
        'in a bottleneck', 'heads', 'neurons', 'above products',
        'in embeddings'])
def test_network_of_smaller_arrays_runs_trains_and_is_saved(
    name, depth, width, reads, cuts, tmp_path):
  run, state, batch = _begun(name, depth=depth, width=width, steps=4)

  def in_state(path):
    return next((cut for end, cut in cuts.items()
                 if re.search(f'(^|/){end}', path)), None)

  def unread(path, w):
    if not re.search(f'(^|/){reads}', path):
      return w
    axis, kept = in_state(path)
    gone = np.delete(np.arange(w.shape[axis]), kept)
    return jnp.moveaxis(jnp.moveaxis(w, axis, 0).at[gone].set(0), 0, axis)

  def cut(path, w):
    return w if in_state(path) is None else jnp.take(
        w, in_state(path)[1], in_state(path)[0])

  state = trees.map_with_path(unread, state)
  small = trees.map_with_path(cut, state)
  assert checkpoints.digest(small.opt_state) != checkpoints.digest(
      state.opt_state)
  apply = jax.jit(run.apply)
  np.testing.assert_allclose(
      *(apply(steps.variables(s), batch.inputs) for s in (state, small)),
      rtol=1e-4, atol=1e-5)
  shapes = jax.tree.map(jnp.shape, small)
  small, loss = run.train(small, batch)
  assert np.isfinite(loss)
  assert jax.tree.map(jnp.shape, small) == shapes
  checkpoints.save(tmp_path, 1, small)
  _, saved = checkpoints.restore(tmp_path, small)
  assert checkpoints.digest(saved) == checkpoints.digest(small)
