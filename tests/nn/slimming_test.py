"""NNX models without units: the same outputs, and widths that say so."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse._utils import trees
from jaxsparse.nn import slim_model
from tests._lib.near import same
from tests._lib.removals import pruned
from tests._lib.removals import some
from tests._lib.zoo_case import data

pytestmark = pytest.mark.slow


class Convs(nnx.Module):
  """All kinds of convolutions and norms; channels, and groups of channels."""

  def __init__(self, rngs):
    conv = functools.partial(nnx.Conv, rngs=rngs)
    self.stem = conv(3, 8, (1, 1), use_bias=False)
    self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
    self.depthwise = conv(8, 16, (3, 3), feature_group_count=8)
    self.convs = nnx.List([conv(16, 12, (1, 1)),
                           conv(12, 6, (3, 3), feature_group_count=3),
                           conv(6, 12, (1, 1))])
    self.groups = nnx.GroupNorm(12, num_groups=4, rngs=rngs)
    self.up = nnx.ConvTranspose(12, 5, (2, 2), rngs=rngs)
    self.back = nnx.ConvTranspose(5, 7, (2, 2), transpose_kernel=True,
                                  rngs=rngs)
    self.head = conv(7, 2, (1, 1))

  def __call__(self, x):
    x = nnx.relu(self.depthwise(nnx.relu(self.norm(self.stem(x)))))
    for conv in self.convs:
      x = nnx.relu(conv(x))
    return self.head(nnx.relu(self.back(nnx.relu(self.up(self.groups(x))))))


class Masked(nnx.Module):
  """A convolution with a mask of its own, and heads that share keys."""

  def __init__(self, rngs):
    mask = (jax.random.uniform(jax.random.key(0), (3, 3, 3, 8)) > .3).astype(
        jnp.float32)
    self.conv = nnx.Conv(3, 8, (3, 3), mask=mask, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
        num_heads=6, num_kv_heads=3, in_features=8, qkv_features=30,
        decode=False, rngs=rngs)

  def __call__(self, x):
    return self.attention(nnx.relu(self.conv(x)))


class Attending(nnx.Module):
  """Tokens, heads, an einsum and LoRA; the head reads the embedding again."""

  def __init__(self, rngs):
    self.embed = nnx.Embed(11, 16, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
        num_heads=4, in_features=16, qkv_features=24, decode=False, rngs=rngs)
    self.general = nnx.LinearGeneral(16, (3, 5), rngs=rngs)
    self.einsum = nnx.Einsum('abk,kf->abf', (5, 8), (8,), rngs=rngs)
    self.lora = nnx.LoRALinear(8, 10, lora_rank=2, rngs=rngs)
    self.out = nnx.Linear(10, 16, rngs=rngs)

  def __call__(self, x):
    x = self.embed(x)
    x = x + self.attention(x)
    x = nnx.relu(self.einsum(nnx.relu(self.general(x)).sum(-2)))
    return self.embed.attend(self.out(nnx.relu(self.lora(x))))


class Recurrent(nnx.Module):

  def __init__(self, rngs, cell):
    self.first = nnx.Linear(3, 6, rngs=rngs)
    self.rnn = nnx.RNN(cell(6, 8, rngs=rngs), rngs=rngs)
    self.head = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    return self.head(self.rnn(self.first(x)))


class Batched(nnx.Module):
  """A layer with a kernel for each of two places."""

  def __init__(self, rngs):
    self.first = nnx.Linear(3, 8, rngs=rngs)
    self.each = nnx.LinearGeneral(8, 6, batch_axis={0: 2}, rngs=rngs)
    self.head = nnx.Linear(6, 4, rngs=rngs)

  def __call__(self, x):
    return self.head(nnx.relu(self.each(nnx.relu(self.first(x)))))


_IMAGES, _TOKENS, _SEQUENCES = (
    data(2, 4, 4, 3), jnp.arange(8).reshape(2, 4), data(2, 5, 3))
_CASES = {
    'convolutions': (Convs, _IMAGES, 8),
    'masked': (Masked, _IMAGES, 2),
    'attention': (Attending, _TOKENS, 7),
    'batched': (Batched, _SEQUENCES, 2),
    **{cell.__name__: (functools.partial(Recurrent, cell=cell), _SEQUENCES, 2)
       for cell in (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell,
                    nnx.SimpleCell)},
}


# One compilation for a model rather than one for every operation.
_run = nnx.jit(lambda model, x: model(x))
_ARRAYS = nnx.Any(nnx.Param, nnx.BatchStat)


def _ties(model, x):
  graphdef, variables = nnx.split(model)
  return jaxsparse.infer_ties(
      lambda variables, x: nnx.merge(graphdef, variables, copy=True)(x),
      variables, x, check=False)


def _masked(model, ties, keep):
  """The model with zeros where units that go are read."""
  model = nnx.clone(model)
  params = nnx.state(model, _ARRAYS)
  nnx.update(model, pruned(params, ties, keep))
  return model


@functools.cache
def _case(name):
  """A masked model, its slimmed self, an input, and what was removed."""
  build, x, count = _CASES[name]
  model = build(nnx.Rngs(0))
  ties = _ties(model, x)
  # JAX's attention asks for values with as many dimensions as queries.
  keep = {name: k for name, k in some(ties).items() if not (
      name.startswith('attention/out/kernel') and ties[name].along)}
  assert len(keep) == count
  model = _masked(model, ties, keep)
  return model, slim_model(model, ties, keep), x, ties, keep


@pytest.mark.parametrize('name', _CASES)
def test_outputs_are_those_of_the_masked_model_which_stays(name):
  model, small, x, ties, keep = _case(name)
  same(_run(small, x), _run(model, x))
  before = nnx.state(model)
  assert {path: w.shape for path, w in trees.align(before)} == ties.shapes
  for a, b in zip(jax.tree.leaves(nnx.state(small)),
                  jax.tree.leaves(jaxsparse.slim(before, ties, keep)),
                  strict=True):
    assert a.shape == b.shape
    assert jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key) or (a == b).all()


@pytest.mark.parametrize('name', _CASES)
def test_split_and_merge_go_round(name):
  _, small, x, *_ = _case(name)
  graphdef, state = nnx.split(small)
  again = nnx.merge(graphdef, state)
  same(_run(again, x), _run(small, x))
  assert nnx.split(again)[0] == graphdef


@pytest.mark.parametrize('name', _CASES)
def test_it_learns(name):
  _, small, x, *_ = _case(name)
  small = nnx.clone(small)

  def loss_fn(model):
    return jnp.mean(jnp.square(model(x) - 1.))
  optimizer = nnx.Optimizer(small, optax.sgd(1e-3), wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss, loss_fn(model)
  before, after = step(small, optimizer)
  assert after < before


def _attributes(module, names):
  return tuple(getattr(module, name) for name in names.split())


def test_attributes_tell_the_new_widths():
  _, small, *_ = _case('convolutions')
  widths = 'in_features out_features feature_group_count kernel_shape'
  assert _attributes(small.stem, widths) == (3, 5, 1, (1, 1, 3, 5))
  assert small.norm.num_features == 5
  # Five groups of eight are left, two outputs each.
  assert _attributes(small.depthwise, widths) == (5, 10, 5, (3, 3, 1, 10))
  grouped = small.convs[1]
  assert grouped.feature_group_count == 2
  assert grouped.in_features == small.convs[0].out_features
  assert grouped.out_features == small.convs[2].in_features
  # Of GroupNorm whole groups go.
  assert _attributes(small.groups, 'num_features num_groups group_size') == (
      9, 3, 3)
  assert _attributes(small.up, 'in_features out_features kernel_shape') == (
      9, 3, (2, 2, 9, 3))
  assert _attributes(small.back, 'in_features out_features kernel_shape') == (
      3, 4, (2, 2, 4, 3))


def test_attributes_of_attention_tell_its_heads():
  _, small, *_ = _case('attention')
  assert _attributes(
      small.attention, 'in_features num_heads head_dim qkv_features '
      'out_features in_kv_features num_kv_heads') == (9, 3, 6, 18, 9, 9, 3)
  assert _attributes(small.attention.out, 'in_features out_features') == (
      (3, 6), (9,))
  assert _attributes(small.embed, 'num_embeddings features') == (11, 9)
  assert _attributes(small.general, 'in_features out_features') == (
      (9,), (2, 3))
  assert _attributes(small.einsum, 'kernel_shape bias_shape') == ((3, 5), (5,))
  assert _attributes(small.lora.lora, 'in_features out_features') == (5, 6)


def test_heads_that_share_keys_go_together():
  _, small, *_ = _case('masked')
  assert _attributes(small.attention, 'num_heads num_kv_heads head_dim') == (
      4, 2, 5)
  assert small.conv.mask.shape == small.conv.kernel_shape == (3, 3, 3, 5)


def test_attributes_of_cells_and_batched_layers():
  for name in ('LSTMCell', 'OptimizedLSTMCell', 'GRUCell', 'SimpleCell'):
    _, small, *_ = _case(name)
    assert _attributes(small.rnn.cell, 'in_features hidden_features') == (4, 5)
  _, small, *_ = _case('batched')
  assert dict(small.each.batch_axis) == {0: 2}
  assert _attributes(small.each, 'in_features out_features') == ((5,), (4,))


class Block(nnx.Module):
  """A layer of a stack: attention without biases of its own, and an MLP."""

  def __init__(self, rngs):
    self.norm = nnx.LayerNorm(8, rngs=rngs)
    self.heads = nnx.LinearGeneral(8, (2, 4), rngs=rngs)
    self.join = nnx.LinearGeneral((2, 4), 8, axis=(-2, -1), rngs=rngs)
    self.up = nnx.Linear(8, 12, rngs=rngs)
    self.mix = nnx.Einsum('bf,fg->bg', (12, 10), (10,), rngs=rngs)
    self.down = nnx.Linear(10, 8, rngs=rngs)

  def __call__(self, x):
    x = x + self.join(nnx.relu(self.heads(self.norm(x))))
    return x + self.down(nnx.relu(self.mix(nnx.relu(self.up(x)))))


class Stack(nnx.Module):
  """Layers of one `scan`."""

  def __init__(self, rngs):
    make = nnx.split_rngs(splits=3)(nnx.vmap(Block))
    self.blocks = make(rngs)
    self.head = nnx.Linear(8, 2, rngs=rngs)

  def __call__(self, x):
    run = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0),
                   out_axes=nnx.Carry)
    return self.head(run(x, self.blocks))


def test_layers_of_a_scan_tell_the_widths_of_one_layer():
  model, x = Stack(nnx.Rngs(0)), data(4, 8)
  ties = _ties(model, x)
  keep = some(ties)
  model = _masked(model, ties, keep)
  small = slim_model(model, ties, keep)
  same(small(x), model(x))
  block = small.blocks
  assert block.up.kernel.shape == (
      3, block.up.in_features, block.up.out_features)
  assert block.up.out_features < 12
  assert block.heads.kernel.shape == (
      3, *block.heads.in_features, *block.heads.out_features)
  assert block.mix.kernel.shape == (3, *block.mix.kernel_shape)
  assert block.mix.bias.shape == (3, *block.mix.bias_shape)


def test_decoding_starts_with_room_for_the_heads_that_are_left():
  model, x = Attending(nnx.Rngs(0)), _TOKENS
  ties = _ties(model, x)
  heads = ties.of('attention/query/kernel', 1)[0].name
  keep = {heads: some(ties)[heads]}
  model = _masked(model, ties, keep)
  model.attention.init_cache((2, 4, 16))
  small = slim_model(model, ties, keep)
  assert small.attention.cached_key is None
  small.attention.init_cache((2, 4, 16))
  model.attention.decode = small.attention.decode = True
  token = data(2, 1, 16)
  same(small.attention(token), model.attention(token))


def test_other_dimensions_of_values_are_refused_as_jax_does():
  model = Attending(nnx.Rngs(0))
  ties = _ties(model, _TOKENS)
  tie, = (tie for tie in ties.of('attention/out/kernel', 1) if tie.along)
  with pytest.raises(ValueError, match='got 4 and 6 after the cut'):
    slim_model(model, ties, {tie.name: some(ties)[tie.name]})


def test_nothing_changes_where_nothing_goes():
  model, x = Batched(nnx.Rngs(0)), _SEQUENCES
  same(slim_model(model, _ties(model, x), {})(x), model(x))


class Scaled(nnx.Module):
  """Arrays of its own, one of them in a list."""

  def __init__(self, width, rngs):
    self.width = width
    self.scales = nnx.List([nnx.Param(jnp.ones(width)) for _ in range(2)])

  def __call__(self, x):
    assert x.shape[-1] == self.width
    return nnx.relu(x * self.scales[0][None]) * self.scales[1][None]


class Net(nnx.Module):

  def __init__(self, rngs):
    self.first = nnx.Linear(3, 8, rngs=rngs)
    self.scaled = Scaled(8, rngs)
    self.head = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    return self.head(self.scaled(self.first(x)))


def test_modules_that_are_not_known_are_named_and_can_be_told():
  model, x = Net(nnx.Rngs(0)), data(2, 3)
  ties = _ties(model, x)
  keep = some(ties)
  model = _masked(model, ties, keep)
  with pytest.raises(ValueError, match=(
      r'scaled is a Scaled, .* scaled/scales/0; .*widths=\{Scaled: ')):
    slim_model(model, ties, keep)
  small = slim_model(model, ties, keep, widths={
      Scaled: lambda module: {'width': module.scales[0].shape[-1]}})
  assert small.scaled.width == 5
  same(small(x), model(x))


def test_a_module_may_read_what_is_in_it():
  class Outer(nnx.Module):

    def __init__(self, rngs):
      self.net = nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), nnx.relu,
                                nnx.Linear(8, 4, rngs=rngs))
      self.hidden = 8

    def __call__(self, x):
      return self.net(x)
  model, x = Outer(nnx.Rngs(0)), data(2, 3)
  ties = _ties(model, x)
  keep = some(ties)
  assert slim_model(model, ties, keep).hidden == 8
  small = slim_model(model, ties, keep, widths={
      Outer: lambda outer: {'hidden': outer.net.layers[0].out_features}})
  assert small.hidden == 5


def test_shared_arrays_stay_shared():
  class Shared(nnx.Module):

    def __init__(self, rngs):
      self.a, self.b = (nnx.Linear(6, 6, rngs=rngs) for _ in range(2))
      self.b.kernel = self.a.kernel
      self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
      return self.head(nnx.relu(x + self.b(nnx.relu(self.a(x)))))
  model, x = nnx.Sequential(
      nnx.Linear(3, 6, rngs=nnx.Rngs(1)), Shared(nnx.Rngs(0))), data(2, 3)
  ties = _ties(model, x)
  keep = some(ties)
  model = _masked(model, ties, keep)
  small = slim_model(model, ties, keep)
  same(small(x), model(x))
  inner = small.layers[1]
  assert inner.a.kernel is inner.b.kernel
  assert inner.b.in_features == inner.a.in_features == inner.a.kernel.shape[0]
  assert np.shape(inner.a.kernel)[0] < 6
