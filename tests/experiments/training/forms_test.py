"""Every smaller form of a network has the outputs of the masked one."""

import jax
import numpy as np
import optax
import pytest

from experiments.training import forms
from experiments.training import runs
from experiments.training import steps
import jaxsparse
from tests._lib import commands

pytestmark = pytest.mark.usefixtures('launched')


def _restored(name, **overrides):
  """A run before its first step."""
  config = commands.config(name, batch_size=8, **overrides)
  run, dataset = runs.create(config)
  return runs.Restored(config, run, dataset, run.init(None))


def _logits(restored, form):
  inputs = restored.dataset.train(0, 1, 8).inputs
  return np.asarray(form.apply(form.variables, inputs)), np.asarray(inputs)


def _by_hand(restored, inputs):
  """The MLP in numpy, on masked weights."""
  params = steps.sparse(restored.state).params
  h = inputs.reshape(len(inputs), -1)
  for _, layer in sorted(params['layers'].items()):
    h = np.maximum(h @ np.asarray(layer['kernel'][...])
                   + np.asarray(layer['bias'][...]), 0)
  return h @ np.asarray(params['head']['kernel'][...]) + np.asarray(
      params['head']['bias'][...])


def _nbytes(form):
  return sum(x.nbytes for x in jax.tree.leaves(form.variables))


def _with_dead_units(restored, count):
  """The first units of the first layer read nothing, and nothing reads them.

  Every other unit reads three inputs, and is read.
  """
  masks = jaxsparse.get_masks(restored.state.opt_state)
  made = [np.zeros(mask.shape, bool) for mask in jax.tree.leaves(masks)]
  made[0][:3, count:] = True
  for unit in range(32):
    made[1][count + (unit + np.arange(3)) % (32 - count), unit] = True
  masks = jax.tree.unflatten(jax.tree.structure(masks), map(
      jax.numpy.asarray, made))
  state = restored.state
  opt_state = optax.tree.set(state.opt_state, masks=masks)
  params = jax.tree.map(
      lambda w: jax.random.normal(jax.random.key(w.size), w.shape) / 4,
      state.params)
  return restored._replace(state=state._replace(
      params=jaxsparse.apply_masks(params, masks), opt_state=opt_state))


def test_one_fan_in_is_condensed():
  restored = _restored('digits/srigl_90', sparsity=0.6)
  made = forms.forms(restored)
  assert [*made] == ['masked', 'condensed']
  for form in made.values():
    logits, inputs = _logits(restored, form)
    np.testing.assert_allclose(
        logits, _by_hand(restored, inputs), rtol=1e-5, atol=1e-5)
  kept = made['condensed'].kept
  # A value and an index of four bytes each; the rest of the MLP as it was.
  assert _nbytes(made['condensed']) == _nbytes(made['masked']) - 4 * (
      64 * 32 + 32 * 32) + 8 * kept


def test_dead_units_are_cut_out_before_condensing():
  restored = _with_dead_units(_restored('digits/srigl_90'), 12)
  made = forms.forms(restored)
  assert [*made] == ['masked', 'slimmed', 'slimmed, condensed']
  for form in made.values():
    logits, inputs = _logits(restored, form)
    np.testing.assert_allclose(
        logits, _by_hand(restored, inputs), rtol=1e-5, atol=1e-5)
  # 20 of 32 units of the first layer are left.
  assert _nbytes(made['slimmed']) == 4 * (
      64 * 20 + 20 + 20 * 32 + 32 + 32 * 10 + 10)
  assert made['slimmed'].kept == made['masked'].kept == 3 * 20 + 3 * 32


def test_two_of_four_are_packed():
  restored = _restored('digits/sr_ste_2_4')
  made = forms.forms(restored)
  assert [*made] == ['masked', 'packed 2:4']
  logits, inputs = _logits(restored, made['packed 2:4'])
  np.testing.assert_allclose(
      logits, _by_hand(restored, inputs), rtol=1e-5, atol=1e-5)
  assert _nbytes(made['packed 2:4']) < 0.7 * _nbytes(made['masked'])


def test_single_weights_have_no_smaller_form():
  assert [*forms.forms(_restored('digits/rigl_90', sparsity=0.5))] == [
      'masked']


@pytest.mark.slow
@pytest.mark.parametrize('model', ['resnet', 'vit'])
@pytest.mark.parametrize('name', ['srigl_90', 'sr_ste_2_4', 'rigl_90'])
def test_forms_of_other_networks_have_the_same_outputs(name, model):
  restored = _restored(f'digits/{name}', model=model)
  masked, *smaller = forms.forms(restored).values()
  expected, _ = _logits(restored, masked)
  for form in smaller:
    np.testing.assert_allclose(
        _logits(restored, form)[0], expected, rtol=1e-4, atol=1e-4)


def test_pruned_kernels_of_other_layers_are_named():
  restored = _restored('digits/rigl_90', model='resnet')
  model = forms.model(restored.config, restored.dataset,
                      steps.variables(restored.state))
  masks = jaxsparse.get_masks(restored.state.opt_state)
  with pytest.raises(ValueError, match='conv1/kernel must be the kernel of'):
    forms.condense_model(model, masks)
