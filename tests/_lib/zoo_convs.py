"""Models of convolutions: VGG, residual, dense and inverted blocks."""

from flax import linen as nn
from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from experiments.models.resnet import ResNet
from tests._lib.zoo_case import case
from tests._lib.zoo_case import CONV
from tests._lib.zoo_case import data
from tests._lib.zoo_case import DENSE
from tests._lib.zoo_case import grid
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import make
from tests._lib.zoo_case import nnx_module
from tests._lib.zoo_case import part
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import units
from tests._lib.zoo_case import weights
from tests._lib.zoo_case import WHOLE


def batch_norm(name=None):
  return nn.BatchNorm(use_running_average=True, name=name)


class VGG(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.relu(batch_norm('norm1')(nn.Conv(5, (3, 3), name='conv1')(x)))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.Conv(6, (3, 3), use_bias=False, name='conv2')(x)
    x = nn.max_pool(nn.relu(batch_norm('norm2')(x)), (2, 2), (2, 2))
    x = nn.relu(nn.Dense(7, name='dense')(x.reshape(len(x), -1)))
    return nn.Dense(3, name='head')(x)


@case
def vgg():
  fn, params = linen(VGG(), data(2, 8, 12, 4))
  return make(
      fn, params, data(2, 8, 12, 4),
      kernels={'params/conv./kernel': CONV,
               'params/(dense|head)/kernel': DENSE},
      free=['.*/conv1/kernel:3 .*/(conv1/bias|norm1/.*):0 .*/conv2/kernel:2',
            # Flattened: two rows and three columns of pixels, then channels.
            {'.*/conv2/kernel:3 .*/norm2/.*:0': WHOLE,
             '.*/dense/kernel:0': units(grid(2, 3, 6), 2)},
            '.*/dense/kernel:1 .*/dense/bias:0 .*/head/kernel:0'])


class Strided(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(5, (3, 3), strides=2, padding='VALID', name='conv1')(x)
    x = nn.avg_pool(nn.gelu(x), (2, 2), (1, 1))
    x = nn.Conv(6, (2, 3), padding='VALID', name='conv2')(x)
    return nn.Dense(3, name='head')(nn.relu(x).mean((1, 2)))


@case
def strided():
  fn, params = linen(Strided(), data(2, 9, 11, 4))
  return make(
      fn, params, data(2, 9, 11, 4),
      kernels={'.*/conv./kernel': CONV, '.*/head/kernel': DENSE},
      free=['.*/conv1/kernel:3 .*/conv1/bias:0 .*/conv2/kernel:2',
            '.*/conv2/kernel:3 .*/conv2/bias:0 .*/head/kernel:0'])


class BasicBlock(nnx.Module):

  def __init__(self, width_in, middle, width, rngs):
    norm = lambda width: nnx.BatchNorm(
        width, use_running_average=True, rngs=rngs)
    conv = lambda width_in, width, size: nnx.Conv(
        width_in, width, (size, size), use_bias=False, rngs=rngs)
    self.conv1, self.norm1 = conv(width_in, middle, 3), norm(middle)
    self.conv2, self.norm2 = conv(middle, width, 3), norm(width)
    self.projected = width_in != width
    if self.projected:
      self.shortcut, self.norm3 = conv(width_in, width, 1), norm(width)

  def __call__(self, x):
    y = nnx.relu(self.norm1(self.conv1(x)))
    y = self.norm2(self.conv2(y))
    return nnx.relu(y + (self.norm3(self.shortcut(x)) if self.projected else x))


class BasicResNet(nnx.Module):
  """Blocks with an identity, a projection and an identity as shortcuts."""

  def __init__(self, rngs):
    self.stem = nnx.Conv(3, 5, (3, 3), use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
    self.blocks = nnx.List([
        BasicBlock(*widths, rngs)
        for widths in ((5, 6, 5), (5, 7, 8), (8, 9, 8))])
    self.head = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.stem(x)))
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


@case
def resnet():
  fn, params = nnx_module(BasicResNet)
  return make(
      fn, params, data(2, 6, 5, 3),
      kernels={'stem/kernel|.*/(conv.|shortcut)/kernel': CONV,
               'head/kernel': DENSE},
      free=['(stem|blocks/0/conv2)/kernel:3 (norm|blocks/0/norm2)/.*:0 '
            'blocks/[01]/conv1/kernel:2 blocks/1/shortcut/kernel:2',
            'blocks/(1/conv2|1/shortcut|2/conv2)/kernel:3 '
            'blocks/(1/norm2|1/norm3|2/norm2)/.*:0 '
            'blocks/2/conv1/kernel:2 head/kernel:0',
            *(f'blocks/{i}/conv1/kernel:3 blocks/{i}/norm1/.*:0 '
              f'blocks/{i}/conv2/kernel:2' for i in range(3))])


class Bottleneck(nn.Module):
  width: int
  middle: int

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.middle, (1, 1), use_bias=False, name='conv1')(x)
    y = nn.relu(batch_norm('norm1')(y))
    y = nn.Conv(self.middle + 1, (3, 3), use_bias=False, name='conv2')(y)
    y = nn.relu(batch_norm('norm2')(y))
    y = batch_norm('norm3')(
        nn.Conv(self.width, (1, 1), use_bias=False, name='conv3')(y))
    if x.shape[-1] != self.width:
      x = nn.Conv(self.width, (1, 1), name='shortcut')(x)
    return nn.relu(x + y)


class Bottlenecks(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = Bottleneck(8, 3, name='block1')(x)
    x = Bottleneck(8, 5, name='block2')(x)
    return nn.Dense(3, name='head')(x.mean((1, 2)))


@case
def bottlenecks():
  fn, params = linen(Bottlenecks(), data(2, 5, 6, 4))
  return make(
      fn, params, data(2, 5, 6, 4),
      kernels={'.*/(conv.|shortcut)/kernel': CONV, '.*/head/kernel': DENSE},
      free=['.*/(conv3|shortcut)/kernel:3 .*/(norm3/.*|shortcut/bias):0 '
            '.*/block2/conv1/kernel:2 .*/head/kernel:0',
            *(f'.*/{b}/conv{i}/kernel:3 .*/{b}/norm{i}/.*:0 '
              f'.*/{b}/conv{i + 1}/kernel:2'
              for b in ('block1', 'block2') for i in (1, 2))])


@case
def resnet_group_norm():
  """Normalised in groups: groups move, and units inside all of the groups."""
  fn, params = nnx_module(lambda rngs: ResNet((6, 5, 3), 3, depth=2, rngs=rngs))

  def both(groups, whole):
    """The factors of an axis: groups, and units within a group."""
    return [{whole: units(grid(8, groups), axis)} for axis in (0, 1)]
  return make(
      fn, params, data(2, 6, 5, 3),
      kernels={'stem/kernel|.*/(conv.|shortcut)/kernel': CONV,
               'head/kernel': DENSE},
      free=[*both(2, 'stem/kernel:3 blocks/0/norm1/.*:0 '
                  'blocks/0/(conv1|shortcut)/kernel:2'),
            *both(2, 'blocks/0/conv1/kernel:3 blocks/0/norm2/.*:0 '
                  'blocks/0/conv2/kernel:2'),
            *both(2, 'blocks/0/(conv2|shortcut)/kernel:3 blocks/1/norm1/.*:0 '
                  'blocks/1/(conv1|shortcut)/kernel:2'),
            *both(4, 'blocks/1/conv1/kernel:3 blocks/1/norm2/.*:0 '
                  'blocks/1/conv2/kernel:2'),
            *both(4, 'blocks/1/(conv2|shortcut)/kernel:3 norm/.*:0 '
                  'head/kernel:0')],
      stuck=['blocks/1/conv1/kernel:3 blocks/1/norm2/.*:0 '
             'blocks/1/conv2/kernel:2'])


class DenseNet(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (3, 3), name='stem')(x)
    y = nn.Conv(5, (3, 3), name='conv1')(nn.relu(batch_norm('norm1')(x)))
    x = jnp.concatenate([x, y], -1)
    y = nn.Conv(6, (3, 3), name='conv2')(nn.relu(batch_norm('norm2')(x)))
    x = jnp.concatenate([x, y], -1)
    x = nn.relu(batch_norm('norm3')(x))
    return nn.Dense(3, name='head')(x.mean((1, 2)))


@case
def densenet():
  """Maps lie side by side: each reader has a part for each of them."""
  fn, params = linen(DenseNet(), data(2, 5, 6, 3))
  return make(
      fn, params, data(2, 5, 6, 3),
      kernels={'.*/(stem|conv.)/kernel': CONV, '.*/head/kernel': DENSE},
      free=[{'.*/stem/kernel:3 .*/(stem/bias|norm1/.*):0 '
             '.*/conv1/kernel:2': WHOLE,
             '.*/conv2/kernel:2 .*/norm[23]/.*:0 .*/head/kernel:0': part(0, 4)},
            {'.*/conv1/kernel:3 .*/conv1/bias:0': WHOLE,
             '.*/conv2/kernel:2 .*/norm[23]/.*:0 .*/head/kernel:0': part(4, 5)},
            {'.*/conv2/kernel:3 .*/conv2/bias:0': WHOLE,
             '.*/norm3/.*:0 .*/head/kernel:0': part(9, 6)}])


class Grouped(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(6, (3, 3), name='stem')(x))
    x = nn.Conv(10, (3, 3), feature_group_count=2, name='grouped')(x)
    return nn.Dense(3, name='head')(nn.relu(x).mean((1, 2)))


@case
def grouped_convolution():
  """Groups move, and the same units inside both of the groups."""
  fn, params = linen(Grouped(), data(2, 5, 6, 4))
  before, after = grid(2, 3), grid(2, 5)
  stem, grouped = '.*/stem/kernel:3 .*/stem/bias:0', '.*/grouped/kernel:3 '
  grouped += '.*/grouped/bias:0 .*/head/kernel:0'
  return make(
      fn, params, data(2, 5, 6, 4),
      kernels={'.*/(stem|grouped)/kernel': CONV, '.*/head/kernel': DENSE},
      free=[{stem: units(before, 0), grouped: units(after, 0)},
            {stem: units(before, 1), '.*/grouped/kernel:2': WHOLE},
            {grouped: units(after, 1)}],
      stuck=[grouped, stem])


class MobileNet(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.relu6(batch_norm('norm1')(
        nn.Conv(5, (1, 1), use_bias=False, name='expand')(x)))
    x = nn.Conv(5, (3, 3), feature_group_count=5, name='depthwise')(x)
    x = nn.silu(batch_norm('norm2')(x))
    gate = x.mean((1, 2), keepdims=True)
    gate = nn.relu(nn.Conv(3, (1, 1), name='squeeze')(gate))
    x = x * nn.sigmoid(nn.Conv(5, (1, 1), name='excite')(gate))
    x = nn.Conv(7, (1, 1), name='project')(x)
    return nn.Dense(2, name='head')(nn.relu(x).mean((1, 2)))


@case
def mobilenet():
  fn, params = linen(MobileNet(), data(2, 6, 5, 4))
  return make(
      fn, params, data(2, 6, 5, 4),
      kernels={
          '.*/(expand|depthwise|squeeze|excite|project)/kernel': CONV,
          '.*/head/kernel': DENSE},
      free=['.*/(expand|depthwise|excite)/kernel:3 .*/norm./.*:0 '
            '.*/(depthwise|excite)/bias:0 .*/(squeeze|project)/kernel:2',
            '.*/squeeze/kernel:3 .*/squeeze/bias:0 .*/excite/kernel:2',
            '.*/project/kernel:3 .*/project/bias:0 .*/head/kernel:0'])


class TextCNN(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Embed(11, 4, name='embed')(x)
    maps = [nn.Conv(width, (size,), name=f'conv{size}')(x)
            for size, width in ((2, 5), (3, 6))]
    x = jnp.concatenate([nn.relu(y).max(1) for y in maps], -1)
    return nn.Dense(3, name='head')(x)


@case
def text_cnn():
  fn, params = linen(TextCNN(), tokens(11, 2, 7))
  return make(
      fn, params, tokens(11, 2, 7),
      kernels={'.*/conv./kernel': ((0, 1), (2,)), '.*/head/kernel': DENSE},
      free=['.*/embedding:1 .*/conv./kernel:1',
            {'.*/conv2/kernel:2 .*/conv2/bias:0': WHOLE,
             '.*/head/kernel:0': part(0, 5)},
            {'.*/conv3/kernel:2 .*/conv3/bias:0': WHOLE,
             '.*/head/kernel:0': part(5, 6)}])


@case
def channels_first():
  """Kernels are `[out, in, h, w]`, scales `[1, C, 1, 1]`."""
  def fn(p, x):
    x = lax.conv_general_dilated(x, p['conv1'], (1, 1), 'SAME')
    x = jax.nn.relu(x * p['scale'] + p['offset'])
    x = lax.conv_general_dilated(
        x, p['conv2'], (2, 2), 'VALID',
        dimension_numbers=('NCHW', 'OIHW', 'NCHW'))
    return jax.nn.relu(x).reshape(len(x), -1) @ p['head'].T
  params = weights({
      'conv1': (5, 4, 3, 3), 'scale': (1, 5, 1, 1), 'offset': (1, 5, 1, 1),
      'conv2': (6, 5, 3, 3), 'head': (3, 6 * 2 * 3)})
  oihw = (1, 2, 3), (0,)
  return make(
      fn, params, data(2, 4, 5, 7),
      kernels={'conv.': oihw, 'head': ((1,), (0,))},
      free=['conv1:0 scale:1 offset:1 conv2:1',
            # Flattened: channels, then two rows and three columns of pixels.
            {'conv2:0': WHOLE, 'head:1': units(grid(6, 2, 3), 0)}])


@case
def transposed_convolutions():
  """Down and up again; scales are `[1, 1, 1, C]`, as in Haiku."""
  def fn(p, x):
    x = lax.conv_general_dilated(
        x, p['down'], (2, 2), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    x = jax.nn.relu(x * p['scale'] + p['offset'])
    x = jax.nn.relu(lax.conv_transpose(x, p['up'], (2, 2), 'SAME'))
    return lax.conv_transpose(
        x, p['out'], (1, 1), 'SAME', transpose_kernel=True)
  params = weights({
      'down': (3, 3, 4, 5), 'scale': (1, 1, 1, 5), 'offset': (1, 1, 1, 5),
      'up': (3, 3, 5, 6), 'out': (3, 3, 2, 6)})
  return make(
      fn, params, data(2, 5, 6, 4),
      kernels={'down|up': CONV, 'out': ((0, 1, 3), (2,))},
      free=['down:3 scale:3 offset:3 up:2', 'up:3 out:3'])
