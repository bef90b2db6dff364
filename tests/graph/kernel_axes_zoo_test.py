"""Kernels of the zoo, and patterns on them in training."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse import schedules
from jaxsparse import unstructured
from jaxsparse._utils import trees
from jaxsparse.graph import infer_kernels
from tests._lib import zoo
from tests._lib.kernels import masks_of

# What the zoo knows.

@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_kernels_of_the_zoo(build):
  case = build()
  kernels = infer_kernels(case.fn, case.params, *case.inputs)
  shapes = {path: w.shape for path, w in trees.align(case.params)}
  assert set(kernels) == set(shapes)
  alone = {path for path, kernel in kernels.items()
           if kernel.is_kernel and not kernel.why}
  assert alone == set(case.kernels)
  for path, (contracted, outputs) in case.kernels.items():
    kernel = kernels[path]
    summed = set(kernel.contracted) | set(kernel.window)
    if kernel.window and math.prod(
        shapes[path][axis] for axis in kernel.contracted) == 1:
      # The only channel of a depthwise kernel may be called what it likes.
      assert set(kernel.outputs) == set(outputs), path
    else:
      assert summed == set(contracted), path
      assert set(kernel.outputs) == set(outputs), path
    every = set(range(len(shapes[path])))
    assert set(kernel.stacked) == every - summed - set(kernel.outputs), path
    assert kernel.path == path and kernel.shape == shapes[path]


@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_groups_of_the_zoo_are_along_contracted_axes(build):
  """Oracle: all contracted axes moved to the front, groups sorted there."""
  case = build()
  for pattern in (nm(1, 2), nm(1, 3), nm(2, 5)):
    try:
      found = kernel_patterns(
          case.fn, case.params, *case.inputs, pattern=pattern)
    except ValueError:
      continue
    kernels = found.kernels
    masks = masks_of(case.params, found)
    group = int(re.search(r', (\d+)', pattern.name).group(1))
    for path, w, mask in trees.align(case.params, masks):
      if path in found.dense:
        assert mask is None, path
        continue
      assert mask is not None and path in case.kernels, path
      kernel, w = kernels[path], np.abs(np.asarray(w))
      rows = math.prod(w.shape[axis] for axis in kernel.contracted)
      assert rows % group == 0
      axes = [axis for axis in range(w.ndim) if axis not in kernel.contracted]
      axes += kernel.contracted
      flat = np.transpose(w, axes).reshape(-1, group)
      chosen = np.transpose(np.asarray(mask), axes).reshape(-1, group)
      count = int(re.search(r'(\d+),', pattern.name).group(1))
      assert (chosen.sum(1) == count).all(), path
      np.testing.assert_allclose(
          (flat * chosen).sum(1), np.sort(flat, 1)[:, -count:].sum(1),
          rtol=1e-5)
    break


@pytest.mark.slow
@pytest.mark.parametrize('build, distribution, close', [
    (zoo.zoo_transformers.decoder_scan, jaxsparse.uniform, 0.02),
    (zoo.zoo_transformers.decoder_scan, jaxsparse.global_threshold, 1e-3),
    (zoo.zoo_transformers.linen_encoder, jaxsparse.global_threshold, 1e-3)])
def test_ninety_percent_of_all_kernels(build, distribution, close):
  case = build()
  rules = kernel_patterns(
      case.fn, case.params, *case.inputs, pattern=unstructured())
  try:
    masks = masks_of(case.params, rules, distribution=distribution(0.9))
  except ValueError as error:
    assert 'decoder_scan' == build.__name__ and 'layers' in str(error)
    assert distribution is not jaxsparse.uniform
    return
  found = jaxsparse.summary(case.params, masks)
  sizes = [w.size for path, w in trees.align(case.params)
           if path in case.kernels]
  assert sum(sizes) == sum(m.size for m in jax.tree.leaves(masks))
  kept = sum(int(m.sum()) for m in jax.tree.leaves(masks))
  assert abs(1 - kept / sum(sizes) - 0.9) < close
  assert found.sparsity == pytest.approx(1 - kept / sum(sizes))


# It goes straight into training.

METHODS = {
    'prune': lambda rules: (jaxsparse.prune(rules), jaxsparse.hard()),
    'gradual': lambda rules: (jaxsparse.prune(
        rules, schedule=schedules.cubic(0, 4)), jaxsparse.hard()),
    'ste': lambda rules: jaxsparse.methods.ste(rules, 4),
    'sr_ste': lambda rules: jaxsparse.methods.sr_ste(rules, 4),
    'mdgf': lambda rules: jaxsparse.methods.mdgf_linear(rules, 4),
    'retrain': lambda rules: jaxsparse.methods.train_prune_retrain(rules, 4),
    'top_kast': lambda rules: jaxsparse.methods.top_kast(rules, 4, every=2),
}


@pytest.mark.parametrize('method, build', [
    *((method, zoo.zoo_dense.torch_layout) for method in METHODS),
    *(('prune', build) for build in (
        zoo.zoo_transformers.decoder_scan_fused_remat,
        zoo.zoo_transformers.nnx_encoder, zoo.zoo_convs.channels_first))])
def test_it_trains(method, build):
  case = build()
  rules = kernel_patterns(
      case.fn, case.params, *case.inputs, pattern=nm(1, 2))
  with (jax.numpy_dtype_promotion('standard'),
        jax.numpy_rank_promotion('allow')):
    tx = jaxsparse.sparsify(optax.sgd(1e-2), *METHODS[method](rules))
    params, state = case.params, jax.jit(tx.init)(case.params)

    @jax.jit
    def step(params, state):
      at = jaxsparse.sparse_params(params, state)
      loss, grads = jax.value_and_grad(lambda p: jnp.mean(jnp.square(
          case.fn(p, *case.inputs))))(at)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state, loss
    for _ in range(5):
      params, state, loss = step(params, state)
  assert np.isfinite(loss)
  masks = jaxsparse.get_masks(state)
  for path, _, mask in trees.align(case.params, masks):
    if path in rules.dense:
      assert mask is None
    else:
      assert mask is None or mask.mean() >= 0.5 - 1e-6
  assert any(m is not None and abs(m.mean() - 0.5) < 1e-6
             for m in jax.tree.leaves(masks))
