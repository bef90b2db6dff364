"""Axes: what they are made of, and where their leaves are."""

import itertools

import numpy as np

from jaxsparse.graph.axes import Axis
from jaxsparse.graph.axes import concat
from jaxsparse.graph.axes import factors
from jaxsparse.graph.axes import find
from jaxsparse.graph.axes import Instance
from jaxsparse.graph.axes import leaves
from jaxsparse.graph.axes import pieces
from jaxsparse.graph.axes import places
from jaxsparse.graph.axes import product


def test_products_of_products_are_flat():
  a, b, c = Axis(2), Axis(3), Axis(4)
  assert factors(product([product([a, b]), c])) == [a, b, c]
  assert product([a]) is a and product([a, Axis(1)]) is a


def test_pieces_of_concatenations_are_flat():
  a, b, c = Axis(2), Axis(3), Axis(4)
  assert pieces(concat([concat([a, b]), c])) == [a, b, c]


def test_what_becomes_something_hands_on_what_is_known():
  a = Axis(6, fixed='sort')
  a.become('product', [Axis(2), Axis(3)])
  assert [leaf.fixed for leaf in leaves(a)] == ['sort', 'sort']
  b = Axis(6)
  b.become('link', [a])
  assert find(b) is a


def test_places_say_where_elements_are():
  a, b, c = Axis(2), Axis(3), Axis(4)
  at = {p.leaf: p for p in places([concat([a, product([b, c])])])}
  assert (at[a].starts, at[a].stride) == ((0,), 1)
  assert (at[b].starts, at[b].stride) == ((2,), 4)
  assert (at[c].starts, at[c].stride) == ((2,), 1)
  assert at[c].coordinates == (((b, 4),),)


def test_every_element_has_one_place():
  a, b, c, d = Axis(2), Axis(3), Axis(4), Axis(5)
  array = [product([a, concat([b, product([c, d])])])]
  seen = np.zeros(2 * 23, int)
  for place in places(array):
    if place.leaf is a:  # It is the company of the others.
      continue
    (row,) = place.coordinates
    ranges = [range(0, axis.size * stride, stride) for axis, stride in row
              if axis in (a, c, d)]
    if place.leaf is c:
      continue
    for offsets in itertools.product(*ranges):
      at = place.starts[0] + sum(offsets)
      seen[at + place.stride * np.arange(place.leaf.size)] += 1
  assert (seen == 1).all()


def test_an_instance_is_where_its_part_is():
  parts = [Axis(1), Axis(2)]
  rows, columns = concat(parts), Axis(4)
  first, second = Axis(4), Axis(4)
  found = {p.leaf: p for p in places([product([rows, columns])], [
      Instance(columns, rows, parts[0], first),
      Instance(columns, rows, parts[1], second)])}
  assert columns not in found
  assert found[first].starts == (0,) and found[second].starts == (4,)
  assert found[second].coordinates == (((parts[1], 4),),)
