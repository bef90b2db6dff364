"""Axes of parameters are followed through what is done to them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _known
from jaxsparse.graph import _walk
from jaxsparse.graph._known import Known
from jaxsparse.graph._known import Over
from jaxsparse.graph._known import Tag


class Tags:
  """The interpreter of tags alone."""

  def constant(self, x, aval):
    del x, aval

  def primitive(self, jaxpr, eqn, values):
    del jaxpr
    return [_known.passed(eqn, values)] * len(eqn.outvars)


def tag(shape):
  return Tag.of('w', len(shape))


def followed(f, shape):
  w = jax.ShapeDtypeStruct(shape, jnp.float32)
  found, = _walk.walk(Tags(), jax.make_jaxpr(f)(w), [tag(shape)])
  return found


@pytest.mark.parametrize('f, keys', [
    (lambda w: w.T, (((1,),), ((0,),))),
    (lambda w: jnp.abs(w.astype(jnp.bfloat16)), (((0,),), ((1,),))),
    (lambda w: w * np.ones((4, 6), np.float32), (((0,),), ((1,),))),
    (lambda w: w.reshape(24), (((0,), (1,)),)),
    (lambda w: w.reshape(4, 2, 3), (((0,),), ((1, 0),), ((1, 1),))),
    (lambda w: w.reshape(4, 2, 3).reshape(4, 6),
     (((0,),), ((1, 0), (1, 1)))),
    (lambda w: w[None, :, None], ((), ((0,),), (), ((1,),))),
    (lambda w: jax.jit(jnp.negative)(w), (((0,),), ((1,),)))])
def test_keys_say_which_axes_of_the_parameter_axes_are(f, keys):
  assert followed(f, (4, 6)).keys == keys


@pytest.mark.parametrize('f', [
    lambda w: w[::-1], lambda w: w[:2], lambda w: w.sum(0), lambda w: w @ w.T,
    lambda w: jnp.sort(w), lambda w: w.reshape(3, 8), lambda w: jnp.cumsum(w)])
def test_what_is_not_followed_has_no_tag(f):
  assert followed(f, (4, 6)) is None


def test_of_two_parameters_the_larger_one_counts():
  w, s = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [
      (4, 6), (1, 6)])
  closed = jax.make_jaxpr(lambda w, s: s.repeat(4, 0) * w)(w, s)
  found, = _walk.walk(Tags(), closed, [tag((4, 6)), None])
  assert found == tag((4, 6))


def test_a_whole_parameter_has_axes_and_one_that_was_cut_has_none():
  found = followed(lambda w: w.T[None], (4, 6))
  assert found.is_whole and found.axes == (None, 1, 0)
  assert not followed(lambda w: w.reshape(4, 2, 3), (4, 6)).is_whole
  assert not followed(lambda w: w.reshape(24), (4, 6)).is_whole


def test_an_array_begins_with_the_axes_that_come_first_in_it():
  found = followed(lambda w: w.reshape(24), (4, 6))
  assert (found.major(0), found.major(1)) == (0, None)
  found = followed(lambda w: w.reshape(4, 2, 3).transpose(1, 2, 0), (4, 6))
  assert (found.major(0), found.major(1)) == (2, 0)


def test_the_order_is_that_of_the_parameter():
  found = followed(lambda w: w.transpose(2, 0, 1), (2, 3, 4))
  assert _known.ordered(found, [0, 2]) == [2, 0]
  cut = followed(lambda w: w.reshape(2, 2, 3), (4, 3))
  assert _known.ordered(cut, [1, 2]) is None  # A half of an axis.
  assert _known.ordered(cut, [1, 0]) == [0, 1]


def test_devices_share_whole_axes():
  w = tag((4, 6))
  assert _known.of_device(w, {1: ('m',)}).split == ((1, ('m',)),)
  joined = followed(lambda w: w.reshape(24), (4, 6))
  assert _known.of_device(joined, {0: ('m',)}) is None
  assert _known.of_device(joined, {}) == joined


def test_devices_differ_where_they_do_in_any_operand():
  d, m = (Over(varies=frozenset(name)) for name in 'dm')
  assert _known.joined([d, Over(unsure=frozenset('m')), Over()]) == Over(
      frozenset('d'), frozenset('m'))
  assert _known.joined([]) == Over() and _known.joined([d, m]).any == {*'dm'}
  assert Known(1.).over == Over() and Known(1.).tag is None


S = np.arange(1, 5, dtype=np.float32)[:, None]


@pytest.mark.parametrize('f, scaled', [
    (lambda w: w * S, {0}),
    (lambda w: w / jnp.exp(S), {0}),
    (lambda w: w * jnp.arange(6.), {1}),
    (lambda w: (w.T * S.T).T, {0}),
    (lambda w: w.reshape(4, 2, 3) * jnp.arange(2.)[:, None], {1}),
    (lambda w: w * S.repeat(6, 1), {0}),
    (lambda w: w * 2., set()),
    (lambda w: w * jnp.full((4, 1), 2.), set()),
    (lambda w: w * np.ones((4, 1), np.float32), set()),
    (lambda w: w * (S + jnp.arange(6.)), set()),
    (lambda w: w + S, set())])
def test_constants_scale_along_the_axes_along_which_they_differ(f, scaled):
  class Constants(Tags):
    def constant(self, x, aval):
      del aval
      return _known.Constant.of(x)

    def primitive(self, jaxpr, eqn, values):
      found = _known.passed(eqn, values)
      return [found or _known.made_of_constants(eqn, values)]
  with jax.numpy_rank_promotion('allow'):
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct((4, 6), jnp.float32))
  found, = _walk.walk(Constants(), closed, [tag((4, 6))])
  assert found.scaled == scaled
