"""Values: cutting and joining arrays, and what is then known of them."""

import jax
import numpy as np
import pytest

from jaxsparse.graph import _arrays
from jaxsparse.graph._arrays import Source
from jaxsparse.graph._arrays import Value
from jaxsparse.graph._relations import Relations
from jaxsparse.graph.axes import Axis
from jaxsparse.graph.axes import find
from jaxsparse.graph.axes import leaves


def value(*shape, **known):
  return Value(shape, tuple(Axis(n) if n > 1 else None for n in shape),
               (True,) * len(shape), **known)


def weight(*shape):
  axes = tuple(frozenset([axis]) for axis in range(len(shape)))
  return value(*shape, sources=(Source('w', 1, axes),))


@pytest.mark.parametrize('old, new', [
    ((6, 4), (2, 3, 4)), ((2, 3, 4), (6, 4)), ((1, 6), (6, 1)),
    ((6,), (1, 6, 1)), ((2, 6), (4, 3)), ((3, 3, 1, 5), (3, 3, 1, 5, 1))])
def test_a_reshape_knows_whose_its_axes_are(old, new):
  w = _arrays.reshaped(Relations(), weight(*old), new)
  assert w.shape == new
  assert [a.size if a else 1 for a in w.axes] == list(new)
  # An oracle: an axis is of all those along which its index changes.
  at = np.indices(old).reshape(len(old), *new)
  for axis, size in enumerate(new):
    if size > 1:
      changes = {k for k in range(len(old))
                 if (np.diff(at[k], axis=axis) != 0).any()}
      assert w.sources[0].axes[axis] >= changes


def test_a_reshape_across_axes_without_common_factors_fixes_them():
  relations = Relations()
  w = value(12)
  _arrays.reshaped(relations, w, (3, 4))
  other = _arrays.reshaped(relations, w, (4, 3))
  assert all(leaf.fixed == 'reshape' for a in (*w.axes, *other.axes)
             for leaf in leaves(a))


def test_a_slice_of_what_was_joined_is_what_was_joined():
  relations = Relations()
  a, b = value(5, 2), value(5, 3)
  relations.unify(a.axes[0], b.axes[0])
  relations.note(b.axes)
  whole = _arrays.concatenated(relations, [a, b], 1)
  assert whole.shape == (5, 5)
  back = _arrays.cut(relations, whole, 1, 2, 5)
  assert find(back.axes[1]) is find(b.axes[1])
  relations.settle()  # `b` has these rows without `a`'s columns.
  assert find(back.axes[0]) is find(b.axes[0])


def test_what_is_joined_with_data_is_data():
  data = value(5, 2, sources=None)
  assert _arrays.concatenated(Relations(), [weight(5, 2), data], 1).is_data


def test_one_index_is_no_axis():
  row = _arrays.cut(Relations(), value(3, 4), 0, 1, 2)
  assert row.shape == (1, 4) and row.axes[0] is None


@pytest.mark.parametrize('x, number, fixed', [
    (np.zeros((2, 3)), 0., [None, None]), (np.float32(3), 3., []),
    (np.arange(3.), None, ['a constant of the function']),
    (np.arange(6.).reshape(2, 3) // 3, None,
     ['a constant of the function', None]),
    (np.array(True), 1., [])])
def test_constants_are_alike_or_fixed(x, number, fixed):
  known = _arrays.constant(x)
  assert known.number == number
  assert [a and a.fixed for a in known.axes] == fixed
  assert known.zero == (number == 0,) * x.ndim


def test_keys_are_constants():
  assert _arrays.constant(jax.random.key(0)).axes == ()


def test_sources_of_one_parameter_are_one():
  a = Source('w', 4, (frozenset([0]), frozenset()))
  b = Source('w', 4, (frozenset([1]), frozenset([1])))
  assert _arrays.united([a, b]) == (
      Source('w', 4, (frozenset([0, 1]), frozenset([1]))),)


@pytest.mark.parametrize('x, number', [
    (np.full(3, 2j), None), (np.full(3, 2 + 0j), 2.), (np.zeros(3, bool), 0.),
    (jax.numpy.zeros(3, 'bfloat16'), 0.)])
def test_an_imaginary_number_is_no_zero(x, number):
  known = _arrays.constant(x)
  assert known.number == number and known.zero == (number == 0,)
