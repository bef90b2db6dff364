"""Units that have no effect are found, and what is left is the same function.
"""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from tests._lib.zoo_case import data
from tests._lib.zoo_case import nnx_module
from tests._lib.zoo_case import weights

SAME = 1e-5  # Of the largest number, in f32.

# Models that have widths in their code: reshapes, declared shapes, slices.
HARD = '''vgg strided bottlenecks resnet_group_norm densenet grouped_convolution
    mobilenet text_cnn heads_flattened sliced_unevenly optimized_lstm lstm gru
    learned_start vit lm text_classifier linen_encoder nnx_encoder
    decoder_half_split decoder_learned_frequencies decoder_interleaved
    decoder_interleaved_learned decoder_fused decoder_tied_head decoder_scan
    decoder_scan_fused_remat decoder_remat'''.split()


def same(got, expected):
  rows = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
  for a, b in rows:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= SAME * max(np.abs(b).max(), 1e-3)


def removable(ties):
  return [tie for tie in ties if not tie.fixed and not tie.kept]


def some(ties, seed=0):
  """About half of the units of everything that may be removed."""
  rng = np.random.default_rng(seed)
  return {tie.name: rng.permuted(np.broadcast_to(
      np.arange(tie.size) <= tie.size // 2, tie.shape), axis=-1)
          for tie in removable(ties)}


def pruned(params, ties, keep, *, others=None):
  """Zeros where units that go are read; and other numbers where they are not.

  Where no kernel reads them, or something else does, too, all is zero.
  """
  arrays = {path: np.array(w) for path, w in trees.align(params)}
  chosen = [(tie, keep[tie.name]) for tie in ties if tie.name in keep]
  if others is not None:
    rng = np.random.default_rng(others)
    for tie, k in chosen:
      for m in tie.members:
        there = ties_lib.view(tie, m, arrays[m.path])
        there[~k] = rng.uniform(.5, 1.5, there[~k].shape)
  for tie, k in chosen:
    readers = [m for m in tie.members if m.role == 'reads']
    for m in tie.members if tie.read or not readers else readers:
      ties_lib.view(tie, m, arrays[m.path])[~k] = 0
  return trees.map_with_path(lambda path, w: jnp.asarray(arrays[path]), params)


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
  params = pruned(case.params, ties, keep)
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


# Models that take their widths from their arrays.

class VGG(nnx.Module):

  def __init__(self, rngs):
    widths = [3, 6, 8, 7]
    self.convs = nnx.List([
        nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in zip(widths, widths[1:])])
    self.norms = nnx.List([
        nnx.BatchNorm(n, use_running_average=True, rngs=rngs)
        for n in widths[1:]])
    self.head = nnx.Linear(7, 4, rngs=rngs)

  def __call__(self, x):
    for conv, norm in zip(self.convs, self.norms):
      x = nnx.relu(norm(conv(x)))
    return self.head(nnx.max_pool(x, (2, 2), (2, 2)).mean((1, 2)))


class Bottleneck(nnx.Module):

  def __init__(self, width_in, middle, width, rngs):
    conv = lambda a, b, n: nnx.Conv(a, b, (n, n), use_bias=False, rngs=rngs)
    norm = lambda n: nnx.BatchNorm(n, use_running_average=True, rngs=rngs)
    self.convs = nnx.List([conv(width_in, middle, 1), conv(middle, middle, 3),
                           conv(middle, width, 1)])
    self.norms = nnx.List([norm(middle), norm(middle), norm(width)])
    self.shortcut = conv(width_in, width, 1)

  def __call__(self, x):
    y = x
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
      y = norm(conv(y if i == 0 else nnx.relu(y)))
    return nnx.relu(y + self.shortcut(x))


class Bottlenecks(nnx.Module):

  def __init__(self, rngs):
    self.blocks = nnx.List([Bottleneck(3, 5, 8, rngs),
                            Bottleneck(8, 6, 8, rngs)])
    self.head = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def convolutional(module):
  fn, params = nnx_module(module)
  return fn, params, data(2, 4, 4, 3)


def transformer(*, fused):
  """One block; `dim`, the size of a head, is all that is in the code."""
  dim = 3

  def norm(x, scale):
    return jax.nn.standardize(x, -1) * scale[None, None]

  def fn(p, x):
    x = x @ p['in']
    y = norm(x, p['norm1'])
    if fused:
      qkv = y @ p['qkv'] + p['qkv_bias'][None, None]
      q, k, v = (part.reshape(*x.shape[:2], -1, dim)
                 for part in jnp.split(qkv, 3, -1))
    else:
      q, k, v = (jnp.einsum('ntd,dhk->nthk', y, p[name]) for name in 'qkv')
    shares = jax.nn.softmax(jnp.einsum('nqhd,nkhd->nhqk', q, k) * dim**-.5)
    y = jnp.einsum('nhqk,nkhd->nqhd', shares, v)
    if fused:
      x = x + y.reshape(*x.shape[:2], -1) @ p['out']
    else:
      x = x + jnp.einsum('nthk,hkd->ntd', y, p['out'])
    y = norm(x, p['norm2']) @ p['up'] + p['up_bias'][None, None]
    return (x + jax.nn.gelu(y) @ p['down']) @ p['head']
  shared = {'in': (4, 8), 'norm1': (8,), 'norm2': (8,), 'up': (8, 10),
            'up_bias': (10,), 'down': (10, 8), 'head': (8, 2)}
  mine = {'qkv': (8, 54), 'qkv_bias': (54,), 'out': (18, 8)} if fused else {
      'q': (8, 6, 3), 'k': (8, 6, 3), 'v': (8, 6, 3), 'out': (6, 3, 8)}
  return fn, weights(shared | mine), data(2, 5, 4)


def densenet():
  def fn(p, x):
    for name in ('a', 'b', 'c'):
      y = jax.nn.relu(x @ p[name] + p[f'{name}_bias'][None])
      x = jnp.concatenate([x, y], -1)
    return x @ p['head']
  return fn, weights({
      'a': (3, 4), 'a_bias': (4,), 'b': (7, 5), 'b_bias': (5,), 'c': (12, 6),
      'c_bias': (6,), 'head': (18, 2)}), data(2, 3)


def stack():
  def layer(x, p):
    return x + jax.nn.relu(x @ p['up'] + p['bias'][None]) @ p['down'], None

  def fn(p, x):
    return jax.lax.scan(layer, x @ p['in'], p['layers'])[0] @ p['out']
  return fn, weights({
      'in': (3, 5), 'out': (5, 2), 'layers': {
          'up': (3, 5, 8), 'bias': (3, 8), 'down': (3, 8, 5)}}), data(2, 3)


MODELS = {
    'vgg': (lambda: convolutional(VGG), 3),
    'bottlenecks': (lambda: convolutional(Bottlenecks), 6),
    'fused': (lambda: transformer(fused=True), 2),
    'separate': (lambda: transformer(fused=False), 3),
    'densenet': (densenet, 3), 'stack': (stack, 2)}


@pytest.mark.parametrize('name', MODELS)
def test_outputs_and_gradients_stay(name):
  build, count = MODELS[name]
  fn, params, x = build()
  ties = infer_ties(fn, params, x, check=False)
  keep = {n: k for n, k in some(ties).items()
          # The size of a head is in the code of the model.
          if name != 'fused' or not ties[n].along}
  assert len(keep) == count and not any(k.all() for k in keep.values())
  params = pruned(params, ties, keep)
  assert {n: live.sum(-1).tolist() for n, live in alive(params, ties).items()
          if n in keep} == {n: k.sum(-1).tolist() for n, k in keep.items()}
  run = jax.jit(jax.value_and_grad(lambda p, x: (fn(p, x)**2).sum()))
  value, grads = run(params, x)
  small, expected = slim((params, grads), ties, keep)
  got, small_grads = run(small, x)
  same(got, value)
  same(small_grads, expected)


@pytest.mark.parametrize('tx', [
    optax.adam(1e-2), optax.sgd(1e-2, momentum=.9)], ids=['adam', 'sgd'])
def test_an_optimizer_goes_on(tx):
  fn, params, x = densenet()
  ties = infer_ties(fn, params, x, check=False)
  keep = some(ties)

  def loss(params):
    return (fn(params, x)**2).mean()

  @jax.jit
  def step(params, opt_state):
    with jax.numpy_dtype_promotion('standard'):
      updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
      return optax.apply_updates(params, updates), opt_state
  params, opt_state = step(params, tx.init(params))
  params = pruned(params, ties, keep)
  # What reads dead units would come alive again, but what stays is the same.
  after = slim(step(params, opt_state), ties, keep)
  small = slim((params, opt_state), ties, keep)
  same(step(*small), after)
  assert jax.tree.structure(small) == jax.tree.structure((params, opt_state))


def test_factored_moments_are_refused():
  params = {'w1': jnp.ones((4, 256)), 'w2': jnp.ones((256, 256))}
  ties = infer_ties(lambda p, x: jax.nn.relu(x @ p['w1']) @ p['w2'], params,
                    jnp.ones((1, 4)), check=False)
  with jax.numpy_dtype_promotion('standard'):
    opt_state = optax.adafactor(1e-3).init(params)
  with pytest.raises(ValueError, match='such as factored moments'):
    slim((params, opt_state), ties, {'w1[:, *]': np.arange(256) < 9})


# What is alive.

HIDDEN = Tie(4, (Member('fc1', 1, role='makes'), Member('bias', 0),
                 Member('fc2', 0, role='reads')), name='hidden')


def arrays():
  return {'fc1': np.ones((2, 4), np.float32), 'bias': np.ones(4, np.float32),
          'fc2': np.ones((4, 3), np.float32)}


def chain(p, x):
  for name in ('a', 'b', 'c'):
    x = jnp.tanh(x @ p[name] + p[f'{name}_bias'])
  return x @ p['out']


def chained():
  return {path: np.array(w) for path, w in weights({
      'a': (3, 4), 'a_bias': (4,), 'b': (4, 5), 'b_bias': (5,), 'c': (5, 6),
      'c_bias': (6,), 'out': (6, 2)}).items()}


def test_a_chain_dies_backwards():
  params = chained()
  ties = infer_ties(chain, params, np.ones(3, np.float32))
  params['out'][2:] = 0  # So that of c only units 0 and 1 are read,
  params['c'][:4, :2] = 0  # which read only unit 4 of b,
  params['b'][1:, 4] = 0  # which reads only unit 0 of a.
  live = alive(params, ties)
  find = lambda path: live[ties.of(path, 1)[0].name].nonzero()[0].tolist()
  assert [find('a'), find('b'), find('c')] == [[0], [4], [0, 1]]
  x = np.ones(3, np.float32)
  same(chain(slim(params, ties, live), x), chain(params, x))


def test_one_unit_stays():
  params = chained()
  ties = infer_ties(chain, params, np.ones(3, np.float32))
  params['out'][:] = 0
  live = alive(params, ties)
  assert [live[ties.of(path, 1)[0].name].sum() for path in 'abc'] == [1] * 3
  small = slim(params, ties, live)
  same(chain(small, np.ones(3, np.float32)), np.zeros(2))


def test_every_group_keeps_as_many_as_the_fullest():
  tie = Tie(4, (Member('up', 2, along=((0, 1),), role='makes'),
                Member('down', 1, along=((0, 1),), role='reads')), (3,),
            name='t')
  params = {'up': np.arange(24.).reshape(3, 2, 4), 'down': np.ones((3, 4, 1))}
  params['down'][0, 0] = params['down'][1, :3] = params['down'][2, 1:] = 0
  live = alive(params, [tie])['t'].astype(int).tolist()
  assert live == [[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
  small = slim(params, [tie], alive(params, [tie]))
  assert small['up'][:, 0].tolist() == [
      [1., 2., 3.], [8., 9., 11.], [16., 17., 18.]]


@pytest.mark.parametrize('read', [
    lambda h: h.sum(), lambda h: h @ jnp.tanh(h), jnp.cumsum, jnp.max])
def test_what_is_read_without_a_kernel_is_alive(read):
  def fn(p, x):
    h = jax.nn.relu(x @ p['fc1'] + p['bias'])
    return h @ p['fc2'], read(h)
  params = arrays()
  ties = infer_ties(fn, params, np.ones(2, np.float32))
  params['fc2'][1:] = 0
  assert alive(params, ties)[ties.of('bias', 0)[0].name].all()


def test_what_is_all_zero_is_dead_though_a_sum_reads_it():
  def fn(p, x):
    h = jax.nn.relu(x @ p['fc1'] + p['bias'])
    return h @ p['fc2'], h.sum()
  params = arrays()
  ties = infer_ties(fn, params, np.ones(2, np.float32))
  params['fc1'][:, 1] = params['bias'][1] = params['fc2'][1] = 0
  live = alive(params, ties)
  assert live[ties.of('bias', 0)[0].name].tolist() == [True, False, True, True]
  same(fn(slim(params, ties, live), np.ones(2, np.float32)),
       fn(params, np.ones(2, np.float32)))


def test_of_unknown_roles_all_kernels_must_be_zero():
  tie = Tie(4, tuple(m._replace(role=None) for m in HIDDEN.members), name='t')
  params = arrays()
  params['fc2'][1:] = params['fc1'][:, 2:] = 0
  assert alive(params, [tie])['t'].tolist() == [True, True, False, False]
  params['fc2'] = params['fc2'][:, 0]  # It may be a vector that reads.
  assert alive(params, [tie])['t'].tolist() == [True, True, True, True]


def test_nan_is_alive():
  params = arrays()
  params['fc2'][1:] = 0
  params['fc2'][2, 1] = np.nan
  assert alive(params, [HIDDEN])['hidden'].tolist() == [
      True, False, True, False]


def test_a_part_of_other_axes_cannot_go_alone():
  """Two units' kernels in one array: both lose the same, or nothing."""
  first, second = (Tie(4, (
      Member('both', 2, elsewhere=(Elsewhere(0, i),), role='makes'),
      Member(f'out{i}', 0, role='reads')), name=f't{i}') for i in range(2))
  params = {'both': np.ones((2, 3, 4)), 'out0': np.zeros((4, 1)),
            'out1': np.zeros((4, 1))}
  assert alive(params, [first])['t0'].all()
  keep = np.array([True, False, True, False])
  with pytest.raises(ValueError, match="tie 't0' from .* no rectangular"):
    slim(params, [first, second], {'t0': keep})
  with pytest.raises(ValueError, match='no rectangular'):
    slim(params, [first, second], {'t0': keep, 't1': ~keep})
  small = slim(params, [first, second], {'t0': keep, 't1': keep})
  assert small['both'].shape == (2, 3, 2)


def test_ties_that_are_groups_of_each_other_go_one_after_the_other():
  def fn(p, x):
    h = jnp.tanh(jnp.einsum('nd,dhk->nhk', x, p['w']))
    return jnp.einsum('nhk,hkd->nd', h, p['out'])
  params = weights({'w': (4, 6, 5), 'out': (6, 5, 2)})
  stays = np.random.default_rng(0).permuted(
      np.arange(30).reshape(6, 5) % 5 > 1, axis=1)
  params['out'] = jnp.where(stays[..., None], params['out'], 0.)
  x, sizes = data(3, 4), []
  for _ in range(2):
    ties = infer_ties(fn, params, x, check=False)
    small = slim(params, ties, alive(params, ties))
    same(fn(small, x), fn(params, x))
    params, sizes = small, [*sizes, small['w'].shape]
  assert sizes[0] == (4, 6, 3)
  ties = infer_ties(fn, params, x, check=False)
  keep = {tie.name: np.argsort(np.random.default_rng(0).random(tie.shape)) > 0
          for tie in ties.free}
  with pytest.raises(ValueError, match='and the other way round'):
    slim(params, ties, keep)


def test_empty_parameters_do_no_harm():
  tie = HIDDEN.members + (Member('none', 1, elsewhere=(Elsewhere(0),)),)
  params = arrays() | {'none': np.ones((0, 4))}
  params['fc2'][1:] = 0
  live = alive(params, [Tie(4, tie, name='t')])
  assert live['t'].tolist() == [True, False, False, False]


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
  with pytest.raises(ValueError, match='no units left'):
    slim(params, [HIDDEN], {'hidden': np.zeros(4, bool)})
  for more in ({'kept': 'a softmax'}, {'fixed': 'a softmax'}):
    tie = Tie(4, HIDDEN.members, name='hidden', **more)
    with pytest.raises(ValueError, match=r'may not be removed \(a softmax\)'):
      slim(params, [tie], {'hidden': half})
  stacked = Tie(2, (Member('fc1', 1, along=((0, 1),), elsewhere=(
      Elsewhere(0),), part=True),), (2,), name='stacked')
  with pytest.raises(ValueError, match=r'along \(2,\) need equally many'):
    slim(params, [stacked], {
        'stacked': np.array([[True, True], [True, False]])})
  with pytest.raises(ValueError, match='The tree has no'):
    slim({'fc1': params['fc1']}, [HIDDEN], {'hidden': half})
  with pytest.raises(ValueError, match=r"Ties have \['bias', 'fc2'\]"):
    alive({'fc1': params['fc1']}, [HIDDEN])
  with pytest.raises(ValueError, match='does not fit'):
    alive(params | {'bias': np.ones(5)}, [HIDDEN])
