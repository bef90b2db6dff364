"""Relations: refinement, parts, instances, what has no common structure."""

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from jaxsparse.graph._relations import Relations
from jaxsparse.graph._relations import Unfit
from jaxsparse.graph.axes import Axis
from jaxsparse.graph.axes import concat
from jaxsparse.graph.axes import find
from jaxsparse.graph.axes import fix
from jaxsparse.graph.axes import leaves
from jaxsparse.graph.axes import product


def sizes(axis):
  return [leaf.size for leaf in leaves(axis)]


def test_leaves_that_meet_are_one():
  axes, a, b = Relations(), Axis(4), Axis(4)
  fix(a, 'sort')
  axes.unify(a, b)
  assert find(a) is find(b) and leaves(b)[0].fixed == 'sort'


def test_a_leaf_takes_the_structure_of_a_product():
  axes, a = Relations(), Axis(6)
  whole = product([Axis(2), Axis(3)])
  axes.unify(a, whole)
  assert leaves(a) == leaves(whole) and sizes(a) == [2, 3]


def test_products_are_cut_to_common_factors():
  axes = Relations()
  a, b = product([Axis(4), Axis(6)]), product([Axis(2), Axis(12)])
  axes.unify(a, b)
  assert sizes(a) == sizes(b) == [2, 2, 6] and leaves(a) == leaves(b)


def test_products_without_common_factors_are_fixed():
  axes = Relations()
  a, b = product([Axis(3), Axis(4)]), product([Axis(4), Axis(3)])
  axes.unify(a, b)
  assert all(leaf.fixed == 'reshape' for leaf in leaves(a) + leaves(b))


def test_concatenations_are_cut_to_common_pieces():
  axes = Relations()
  a, b = concat([Axis(2), Axis(4)]), concat([Axis(5), Axis(1)])
  axes.unify(a, b)
  assert sizes(a) == sizes(b) == [2, 3, 1] and leaves(a) == leaves(b)


def test_halves_that_meet_crosswise_are_one():
  axes, a, b = Relations(), Axis(3), Axis(3)
  axes.unify(concat([a, b]), concat([b, a]))
  assert find(a) is find(b)


@given(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=4),
       st.randoms())
def test_a_reshape_and_back_is_the_same(factors, random):
  axes, total = Relations(), math.prod(factors)
  axis = Axis(total)
  parts = axes.reshape([axis], factors)
  assert [p.size for p in parts] == factors
  back, = axes.reshape(parts, [total])
  assert leaves(back) == leaves(axis)


def test_a_reshape_across_factors_has_no_structure():
  axes = Relations()
  axes.reshape([axis := Axis(12)], [3, 4])
  with pytest.raises(Unfit):
    axes.reshape([axis], [4, 3])


def test_a_cut_refines_and_says_where_it_is():
  axes, axis = Relations(), Axis(6)
  part, where = axes.cut(axis, 2, 4)
  assert sizes(axis) == [2, 2, 2] and leaves(part) == leaves(axis)[1:2]
  (whole, there), = where
  assert whole is axis and there is part


def test_a_cut_of_a_product_is_one_of_its_major_axis():
  axes = Relations()
  major, minor = Axis(3), Axis(4)
  part, where = axes.cut(product([major, minor]), 4, 8)
  assert part.size == 4 and find(part) is not minor  # An instance.
  assert [whole for whole, _ in where] == [major]
  with pytest.raises(Unfit):
    axes.cut(product([major, minor]), 2, 6)


def _sliced(axes, other_array=()):
  """`[3, 5]`, of which two rows are used, each in its own way."""
  rows, columns = Axis(3), Axis(5)
  axes.note([rows, columns])
  axes.note(other_array)
  found = []
  for i in range(2):
    _, where = axes.cut(rows, i, i + 1)
    found.append(axes.instanced(columns, where))
    axes.note([found[-1]])
  return columns, found


def test_every_part_may_have_its_own_order():
  axes = Relations()
  columns, (first, second) = _sliced(axes)
  axes.settle()
  assert find(first) is not find(second)
  whole = [find(columns), *map(find, (first, second))]
  assert len(set(whole)) == 3
  rows = axes.arrays[0]
  assert {p.leaf for p in axes.places(rows) if p.axis == 1} >= {
      find(first), find(second)}


def test_parts_have_one_order_where_an_array_has_none():
  axes, columns = Relations(), None
  columns, (first, second) = _sliced(axes)
  axes.note([columns])  # As a bias that is added to all rows.
  axes.settle()
  assert find(first) is find(second) is find(columns)


def test_instances_take_the_structure_of_their_leaf():
  axes, rows, columns = Relations(), Axis(2), Axis(6)
  axes.note([rows, columns])
  _, where = axes.cut(rows, 0, 1)
  first = axes.instanced(columns, where)
  axes.note([first])
  axes.reshape([columns], [2, 3])
  axes.settle()
  assert sizes(first) == [2, 3]


def test_company_is_what_else_tells_an_element():
  axes = Relations()
  a, b, c, d, e = (Axis(n) for n in (2, 3, 4, 5, 6))
  axes.note([product([a, concat([b, product([c, d])])]), e])
  found = axes.companies()
  assert {*found[d][0]} == {a, c, e}
  assert {*found[b][0]} == {a, e}


def test_an_instance_of_itself_is_none():
  axes = Relations()
  rows, columns = Axis(2), Axis(5)
  axes.note([rows, columns])
  for i in range(2):
    _, where = axes.cut(rows, i, i + 1)
    there = axes.instanced(columns, where)
    if i == 0:
      axes.unify(there, columns)
  axes.settle()
  assert find(there) is find(columns) and not axes.instances
