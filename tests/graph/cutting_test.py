"""Primitives that cut and join axes: units are found again behind them."""


from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.graph import primitives
from jaxsparse.graph import tracing
from tests._lib.zoo_case import weights

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _members(between, read=6):
  """What is tied to the six hidden units, if that is free; checked."""
  p = weights({'in': (4, 6), 'out': (read, 2)})
  ties = jaxsparse.infer_ties(
      lambda p, x: between(x @ p['in']) @ p['out'], p, X)
  return [sorted(map(str, tie.members)) for tie in ties.of('in', 1)
          if tie.free]


@pytest.mark.parametrize('between', [
    lambda h: jnp.stack([h, h], 1)[:, 1],
    lambda h: jnp.concatenate([h, -h])[3:],
    lambda h: jnp.pad(h, [(1, 2), (0, 0)])[1:4],
    lambda h: jnp.tile(h, (2, 1))[::2],
    lambda h: jnp.concatenate(jnp.split(h, 3, 0)),
    lambda h: jnp.concatenate(jnp.split(h, 2, 1), 1),
    lambda h: lax.dynamic_slice(h, (0, 0), (3, 6)),
    lambda h: lax.dynamic_slice(h, (1, 0), (2, 6))])
def test_units_are_whole_behind_it(between):
  assert ['in[:, *]', 'out[*]'] in _members(between) or sorted(
      _members(between)) == [[f'in[:, {at}*]', f'out[{at}*]']
                             for at in ('', '3+')]


@pytest.mark.parametrize('between, read, members', [
    (lambda h: h[:, :4], 4, [['in[:, *]', 'out[*]'], ['in[:, 4+*]']]),
    (lambda h: h[:, ::2], 3, [['in[:, *]', 'out[*]'], ['in[:, 1+*]']]),
    (lambda h: jnp.concatenate([h, h], 1), 12,
     [['in[:, *]', 'out[*]', 'out[6+*]']]),
    (lambda h: h.reshape(3, 2, 3).reshape(3, 6), 6,
     [['in[:, (* @)]', 'out[(* @)]'], ['in[:, (@ *)]', 'out[(@ *)]']]),
    (lambda h: jnp.roll(h, 1, 1), 6, [['in[:, *]', 'out[1+*]']]),
    (lambda h: jnp.tile(h, (1, 2)), 12, [['in[:, *]', 'out[*]', 'out[6+*]']]),
    (lambda h: jnp.pad(h, [(0, 0), (1, 2)]), 9, [['in[:, *]', 'out[1+*]']]),
    (lambda h: lax.dynamic_slice(h, (0, 2), (3, 4)), 4,
     [['in[:, 2+*]', 'out[*]']])])
def test_parts_of_units_are_told(between, read, members):
  found = _members(between, read)
  assert all(one in found for one in members), found


@pytest.mark.parametrize('between', [
    lambda h: lax.pad(h, 0., [(0, 0, 0), (0, 0, 1)])[:, :6],
    lambda h: lax.dynamic_slice(h, (0, jnp.argmax(h[0])), (3, 6))])
def test_what_it_does_not_leave_alike_is_fixed(between):
  assert not _members(between)


def test_a_reshape_with_an_order_is_one_of_the_transposed_array():
  found = _members(lambda h: lax.reshape(h, (3, 6), (1, 0)))
  assert found == _members(lambda h: h.T.reshape(3, 6)) == [
      ['in[:, (3 *)]', 'out[(* 3)]']]


def test_what_is_said_to_be_followed_is():
  assert set(tracing._SPECIAL) == set(primitives.FOLLOWED_ELSEWHERE)
