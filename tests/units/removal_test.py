"""Units of the zoo and of small functions are taken out, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse._utils import trees
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from tests._lib import zoo
from tests._lib.near import same
from tests._lib.removals import arrays
from tests._lib.removals import HIDDEN
from tests._lib.removals import pruned
from tests._lib.removals import some

# Models that have widths in their code: reshapes, declared shapes, slices.
HARD = '''vgg strided bottlenecks resnet_group_norm densenet grouped_convolution
    mobilenet text_cnn heads_flattened sliced_unevenly optimized_lstm lstm gru
    learned_start vit lm text_classifier linen_encoder nnx_encoder
    decoder_half_split decoder_learned_frequencies decoder_interleaved
    decoder_interleaved_learned decoder_fused decoder_tied_head decoder_scan
    decoder_scan_fused_remat decoder_remat'''.split()


def shapes_after(ties, params, keep):
  """What sizes should be; the kept come first where groups keep others."""
  gone = {path: [np.zeros(n, bool) for n in np.shape(w)]
          for path, w in trees.align(params)}
  for tie in ties:
    for m in tie.members if tie.name in keep else ():
      k = keep[tie.name].reshape(-1, tie.size)
      alike = (k == k[0]).all()
      goes = ~k[0] if alike else np.arange(tie.size) >= k[0].sum()
      for group in np.ndindex(*tie.along):
        at = ties_lib.positions(tie, m, group)[m.axis]
        gone[m.path][m.axis][at[goes]] = True
  return {path: tuple(int((~x).sum()) for x in axes)
          for path, axes in gone.items()}


def shapes(tree):
  return {path: np.shape(w) for path, w in trees.align(tree)}


# All models of the zoo.

@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_dead_units_have_no_effect_and_can_go(build):
  case = build()
  ties = infer_ties(case.fn, case.params, *case.inputs, check=False)
  keep = some(ties)
  # In numpy, of which slices compile nothing.
  params = jax.tree.map(np.asarray, pruned(case.params, ties, keep))
  live = alive(params, ties)
  for tie in ties:
    if tie.name in keep:
      count, most = live[tie.name].sum(-1), keep[tie.name].sum(-1)
      assert (1 <= count).all() and (count <= most).all()
    else:
      assert live[tie.name].all()
  small = slim(params, ties, keep)
  assert shapes(small) == shapes_after(ties, params, keep)
  if not keep:
    return
  fn = jax.jit(case.fn)
  expected = fn(params, *case.inputs)
  same(fn(pruned(case.params, ties, keep, others=1), *case.inputs), expected)
  if case.name not in HARD:
    same(fn(small, *case.inputs), expected)
    same(fn(slim(params, ties, live), *case.inputs), expected)


# What is removed.

def test_everything_of_a_parameter_follows():
  keep = {'hidden': np.array([True, False, False, True])}
  mask = np.eye(2, 4, dtype=bool)
  tree = {'params': {k: jnp.asarray(w) for k, w in arrays().items()},
          'mu': arrays() | {'fc1': np.arange(8.).reshape(2, 4)},
          'masks': {'fc1': mask, 'fc2': None}, 'count': 3, 'lr': np.ones(())}
  small = slim(tree, [HIDDEN], keep)
  assert jax.tree.structure(small) == jax.tree.structure(tree)
  assert isinstance(small['params']['fc1'], jax.Array)
  assert isinstance(small['mu']['fc1'], np.ndarray)
  np.testing.assert_array_equal(small['mu']['fc1'], [[0., 3.], [4., 7.]])
  np.testing.assert_array_equal(small['masks']['fc1'], mask[:, [0, 3]])
  assert small['params']['bias'].shape == (2,) and small['count'] == 3
  assert small['params']['fc2'].shape == (2, 3) and small['lr'].shape == ()


def test_a_sharded_array_stays_on_its_devices():
  mesh = jax.make_mesh((2,), ('x',))
  place = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(None, 'x'))
  params = arrays() | {'fc1': jax.device_put(arrays()['fc1'], place)}
  for keep in ([True, False, True, False], [True, True, True, False]):
    w = slim(params, [HIDDEN], {'hidden': np.array(keep)})['fc1']
    assert w.shape == (2, sum(keep)) and w.devices() == set(mesh.devices)
    assert (w.sharding == place) == (sum(keep) == 2)


def test_nothing_to_remove_is_nothing_removed():
  params = arrays()
  assert slim(params, [HIDDEN], {}) is params
  assert slim(params, [HIDDEN], {'hidden': np.ones(4, bool)}) is params


def test_what_cannot_be_removed_says_why():
  params, half = arrays(), np.arange(4) < 2
  with pytest.raises(ValueError, match="Did you mean 'hidden'"):
    slim(params, [HIDDEN], {'hiden': half})
  for wrong in (half[:3], half.astype(int)):
    with pytest.raises(ValueError, match=r'bool array of shape \(4,\)'):
      slim(params, [HIDDEN], {'hidden': wrong})
  with pytest.raises(ValueError, match='at least one of its'):
    slim(params, [HIDDEN], {'hidden': np.zeros(4, bool)})
  for more in ({'kept': 'a softmax'}, {'fixed': 'a softmax'}):
    tie = Tie(4, HIDDEN.members, name='hidden', **more)
    with pytest.raises(ValueError, match=r'may not be removed \(a softmax\)'):
      slim(params, [tie], {'hidden': half})
  stacked = Tie(2, (Member('fc1', 1, along=((0, 1),), elsewhere=(
      Elsewhere(0),), part=True),), (2,), name='stacked')
  with pytest.raises(ValueError, match=r'along \(2,\) must keep equally'):
    slim(params, [stacked], {
        'stacked': np.array([[True, True], [True, False]])})
  with pytest.raises(ValueError, match='The tree must have'):
    slim({'fc1': params['fc1']}, [HIDDEN], {'hidden': half})
  with pytest.raises(ValueError, match=r"must have bias, fc2"):
    alive({'fc1': params['fc1']}, [HIDDEN])
  with pytest.raises(ValueError, match='does not fit'):
    alive(params | {'bias': np.ones(5)}, [HIDDEN])
