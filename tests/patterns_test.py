"""Patterns as data: how they are written, what they tile, what is refused."""

import dataclasses
import math

import pytest

from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import unstructured


def test_patterns_are_plain_data():
  assert nm(2, 4) == nm(2, 4) and nm(2, 4) != nm(1, 4)
  assert nm(2, 4) != nm(2, 4, axis=-1)
  assert len({nm(2, 4), nm(2, 4), unstructured(), block((2, 2))}) == 3
  with pytest.raises(dataclasses.FrozenInstanceError):
    nm(2, 4).sparsity = .5


@pytest.mark.parametrize('n, m', [(0, 4), (1, 3), (2, 4), (4, 4)])
def test_nm_is_as_sparse_as_it_says(n, m):
  pattern = nm(n, m)
  assert pattern.sparsity == pytest.approx(1 - n / m)
  assert round((1 - pattern.sparsity) * m) == n


@pytest.mark.parametrize('pattern, text', [
    (unstructured(), 'unstructured()'), (nm(2, 4), 'nm(2, 4)'),
    (nm(2, 4, axis=-1), 'nm(2, 4, axis=-1)'),
    (block((4, 4)), 'block((4, 4))'), (channel(), 'channel(-1)'),
    (unstructured(sparsity=.9), 'unstructured(sparsity=0.9)')], ids=str)
def test_patterns_show_how_they_are_written(pattern, text):
  assert str(pattern) == text


@pytest.mark.parametrize('pattern, grid, sizes', [
    (unstructured(), (2, 8, 4), (1, 64)), (nm(2, 4), (2, 8, 4), (16, 4)),
    (nm(2, 4, axis=-1), (2, 8, 4), (16, 4)),
    (block((4, 2)), (2, 2, 2), (1, 8)), (block((4,)), (2, 8, 1), (1, 16))],
                         ids=str)
def test_grid_and_sizes_count_units(pattern, grid, sizes):
  assert pattern.grid((2, 8, 4)) == grid
  assert pattern.sizes((2, 8, 4)) == sizes


def test_channel_has_a_unit_per_index():
  assert math.prod(channel(-1).grid((2, 8, 4))) == 4
  assert math.prod(channel(-2).grid((2, 8, 4))) == 8
  assert channel(0).sizes((2, 8, 4)) == (1, 2)


@pytest.mark.parametrize('n, m', [(3, 2), (-1, 4), (1, 0), (1., 4), (2, -4)])
def test_n_above_m_is_an_error(n, m):
  with pytest.raises(ValueError, match=r'(?s)n of every m.*got nm\('):
    nm(n, m)


@pytest.mark.parametrize('shape', [(), (0, 4), (-1,), (2., 2)])
def test_a_block_without_a_size_is_an_error(shape):
  with pytest.raises(ValueError, match=r'(?s)positive sizes, got.*block\('):
    block(shape)


def test_crossed_bounds_are_an_error():
  with pytest.raises(ValueError, match=r'(?s)min_sparsity=0.5.*max_sparsity'):
    unstructured(min_sparsity=.5, max_sparsity=.2)


def test_an_unknown_reduce_is_an_error():
  with pytest.raises(ValueError, match=r"(?s)'sum', 'mean' or 'max'.*'min'"):
    block((2, 2), reduce='min')

