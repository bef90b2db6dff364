"""Odd functions: what is called a tie must be one, and known ties be found."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse import permute
from jaxsparse._utils import trees
from jaxsparse.units import check_ties
from tests._lib.odd import axes
from tests._lib.odd import ODD
from tests._lib.odd import SAME
from tests._lib.zoo_case import data

pytestmark = pytest.mark.slow


@pytest.fixture(name='case', params=list(ODD), scope='module')
def _case(request):
  return ODD[request.param]()


@pytest.fixture(name='ties', scope='module')
def _ties(case):
  return infer_ties(case.fn, case.params, *case.inputs, check=False)


def others(inputs):
  """Inputs of the same shapes, but far away."""
  rng = np.random.default_rng(1)
  return tuple(
      jnp.asarray(4 * rng.normal(size=x.shape), x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs)


@pytest.fixture(name='fn', scope='module')
def _fn(case):
  return jax.jit(case.fn)


@pytest.fixture(name='outputs', scope='module')
def _outputs(case, fn):
  far = others(case.inputs)
  return lambda params: jax.tree.leaves(
      [fn(params, *case.inputs), fn(params, *far)])


def far(got, expected):
  """The largest difference, of the largest of each output."""
  wide = lambda x: np.asarray(x).astype(
      complex if jnp.iscomplexobj(x) else float)
  return max([np.abs(wide(a) - wide(b)).max() / max(np.abs(wide(b)).max(), 1e-9)
              for a, b in zip(got, expected, strict=True) if b.size] or [0])


def members(tie):
  return {(m.path, m.axis) for m in tie.members}


def shuffle(tie, rng):
  """A permutation of `tie.shape`, one for each place along it."""
  count = math.prod(tie.along)
  orders = np.stack([rng.permutation(tie.size) for _ in range(count)])
  return orders.reshape(tie.shape)


def plain(w):
  """A parameter in numpy, of which a permutation compiles nothing."""
  is_key = jnp.issubdtype(w.dtype, jax.dtypes.prng_key)
  return w if is_key else np.asarray(w)


def test_free_ties_change_nothing(case, ties, outputs):
  params = jax.tree.map(plain, case.params)
  expected = outputs(params)
  for seed in range(3):
    rng = np.random.default_rng(seed)
    orders = {tie.name: shuffle(tie, rng) for tie in ties.free}
    if far(outputs(permute(params, ties, orders)), expected) < SAME:
      continue
    for name, order in orders.items():
      got = outputs(permute(params, ties, {name: order}))
      assert far(got, expected) < SAME, (name, order)
    raise AssertionError(f'together: {list(orders)}')


# Every eighth, and what has other types than floats among its parameters.
CHECKED = sorted({*list(ODD)[::8], 'units_chosen_by_a_parameter',
                  'weights_from_a_code_book', 'masked_by_parameters',
                  'a_key_among_the_parameters', 'integers_with_scales',
                  'complex_state_space', 'unused_empty_and_scalar',
                  'mixed_precision', 'returned_in_a_dict', 'counted'})


@pytest.mark.parametrize('name', CHECKED)
def test_its_own_check_agrees(name):
  """`infer_ties` raises no error, though the check is on."""
  case = ODD[name]()
  ties = infer_ties(case.fn, case.params, *case.inputs)
  difference = check_ties(case.fn, case.params, ties, *case.inputs, seed=1)
  assert difference < 1e-3


def test_known_ties_are_found(case, ties):
  free = [members(tie) for tie in ties.free]
  for words in case.found:
    assert any(axes(words) <= tie for tie in free), (words, str(ties))


def test_what_is_no_tie_is_not_found(case, ties):
  for tie in ties.free:
    whole = {(m.path, m.axis) for m in tie.members if not m.part}
    assert not whole & axes(case.never), tie


def test_units_under_statistics_stay(case, ties):
  for tie in ties.free:
    if members(tie) & axes(case.stays):
      assert tie.kept, tie


def places(tie, member, unit):
  """Where a unit is on an axis, for all places along the tie."""
  at = np.array([member.start + unit * member.stride])
  for count, distance in member.repeats:
    at = np.add.outer(at, distance * np.arange(count)).ravel()
  for (axis, distance), count in zip(member.along, tie.along, strict=True):
    if axis == member.axis:
      at = np.add.outer(at, distance * np.arange(count)).ravel()
  return at


def cut(tie, params, unit, how):
  """Parameters with a unit's slices cleared or taken out."""
  gone = {}
  for member in tie.members:
    gone.setdefault((member.path, member.axis), []).extend(
        places(tie, member, unit))

  def one(path, w):
    for axis in range(jnp.ndim(w)):
      if (path, axis) in gone:
        w = how(np.asarray(w), gone[path, axis], axis)
    return w
  return trees.map_with_path(one, params)


def clear(w, at, axis):
  w = np.moveaxis(w.copy(), axis, 0)
  w[at] = 0
  return np.moveaxis(w, 0, axis)


def test_removed_units_are_as_if_they_were_zero(case, ties, fn):
  if not case.any_width:
    pytest.skip('a function of one width')
  leaves = jax.tree.leaves
  for tie in ties.free:
    if tie.kept or tie.size < 2 or any(m.elsewhere for m in tie.members):
      continue
    zero = cut(tie, case.params, tie.size - 2, clear)
    less = cut(tie, case.params, tie.size - 2, np.delete)
    expected = leaves(fn(zero, *case.inputs))
    got = leaves(fn(less, *case.inputs))
    assert far(got, expected) < SAME, tie


def test_ties_are_plain_data(ties):
  """NumPy's scalars would show in `repr` and stop `json.dumps`."""
  for tie in ties:
    for member in tie.members:
      kinds = jax.tree.map(type, (member.axis, member.start, member.stride,
                                  member.repeats, member.along))
      assert set(jax.tree.leaves(kinds)) <= {int}, member
      assert type(member.part) is bool, member


def test_what_could_be_found_is_true(case, outputs):
  """So that the list of what is missed stays a list of ties."""
  for words in case.could:
    moved = rolled(case.params, axes(words))
    assert far(outputs(moved), outputs(case.params)) < SAME, words


def rolled(params, where):
  def one(path, w):
    for axis in [axis for name, axis in where if name == path]:
      w = np.roll(w, 2, axis)
    return w
  return trees.map_with_path(one, params)


def test_two_parameters_of_one_path_are_refused():
  params = {'a': {'b': data(4, 7)}, 'a/b': data(7, 3)}
  with pytest.raises(ValueError, match='a/b'):
    infer_ties(lambda p, x: jnp.tanh(x @ p['a']['b']) @ p['a/b'],
               params, data(2, 4))
