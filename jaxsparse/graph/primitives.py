"""Wirings: how the axes of a primitive's operands relate to those of results.

`wiring(eqn)` describes one equation of a jaxpr: axes that are passed on, axes
that meet and vanish, as in a sum, and axes whose indices the primitive does not
treat alike, as a sort. `tracing` handles cutting and joining of axes. The file
is long because it is a table of primitives.
"""

import math
from typing import Any, Callable, NamedTuple, Sequence

import jax
import numpy as np

# An axis of an operand.
Wire = tuple[int, int]


class New(NamedTuple):
  """An axis of a result that no operand has.

  Attributes:
    uniform: whether the result is the same at every index.
  """
  uniform: bool


class Wiring(NamedTuple):
  """The effect of one primitive on axes.

  An axis is a pair `(operand, axis)`. For example, a softmax along the last
  axis of `[n, c]` passes both axes on: `Wiring([[((0, 0),), ((0, 1),)]])`. A
  sum over this axis is
  `Wiring([[((0, 0),)]], gone=[((0, 1),)], kind='sum')`.

  Attributes:
    outputs: for each axis of each result, the operands' axes that become it, or
      `New`.
    gone: axes that the results lack. Axes that are matched with each other are
      in one tuple.
    fixed: axes whose indices the primitive does not treat alike, as a sort.
    kind: 'map' for elementwise operations, 'move' for operations that move
      elements without changing them, 'product', 'sum', 'reduce' for other
      reductions, 'look' if the last operands are indices, else 'other'.
    window: the window axes of a convolution's kernel.
  """
  outputs: Sequence[Sequence[tuple[Wire, ...] | New]]
  gone: Sequence[tuple[Wire, ...]] = ()
  fixed: Sequence[Wire] = ()
  kind: str = 'other'
  window: Sequence[Wire] = ()


def _spread(eqn: Any, kind: str) -> Wiring:
  """Elementwise: operands have the shape of the results, or are scalars."""
  shapes = [np.shape(v.aval) for v in eqn.invars]
  return Wiring([
      [tuple((i, axis) for i, shape in enumerate(shapes) if shape)
       for axis in range(len(out.aval.shape))] for out in eqn.outvars],
                kind=kind)


def _each(eqn: Any) -> Wiring:
  """Every result is the operand at its place."""
  return Wiring([[((i, axis),) for axis in range(len(out.aval.shape))]
                 for i, out in enumerate(eqn.outvars)], kind='move')


def _transpose(eqn: Any) -> Wiring:
  return Wiring([[((0, axis),) for axis in eqn.params['permutation']]],
                kind='move')


def _broadcast_in_dim(eqn: Any) -> Wiring:
  shape = eqn.outvars[0].aval.shape
  there = dict(zip(eqn.params['broadcast_dimensions'],
                   enumerate(eqn.invars[0].aval.shape)))
  return Wiring([[
      ((0, there[axis][0]),) if axis in there and there[axis][1] == size
      else New(uniform=True) for axis, size in enumerate(shape)]], kind='move')


def _squeeze(eqn: Any) -> Wiring:
  rank = len(eqn.invars[0].aval.shape)
  return Wiring([[((0, axis),) for axis in range(rank)
                  if axis not in eqn.params['dimensions']]], kind='move')


def _reduction(kind: str):
  def wire(eqn):
    gone = eqn.params['axes']
    rank = len(eqn.invars[0].aval.shape)
    return Wiring(
        [[((0, axis),) for axis in range(rank) if axis not in gone]],
        [((0, axis),) for axis in gone], (), kind)
  return wire


def _along(parameter: str, kind: str = 'other'):
  """Primitives that are not elementwise along one axis, or some."""
  def wire(eqn):
    axes = eqn.params[parameter]
    axes = axes if isinstance(axes, (tuple, list)) else [axes]
    passed = _spread(eqn, kind)
    return passed._replace(
        fixed=[(i, axis) for i in range(len(eqn.invars)) for axis in axes])
  return wire


def _top_k(eqn: Any) -> Wiring:
  rank = len(eqn.invars[0].aval.shape)
  along = eqn.params.get('axis', rank - 1)
  row = [New(uniform=False) if axis == along else ((0, axis),)
         for axis in range(rank)]
  return Wiring([row] * len(eqn.outvars), [((0, along),)], kind='reduce')


def _iota(eqn: Any) -> Wiring:
  rank = len(eqn.outvars[0].aval.shape)
  return Wiring([[New(uniform=axis != eqn.params['dimension'])
                  for axis in range(rank)]], kind='move')


def _dot_general(eqn: Any, numbers: Any = None, groups: Sequence[int] = ()
                 ) -> Wiring:
  """A product; along `groups` of its second operand there is one for each."""
  contracted, batch = numbers or eqn.params['dimension_numbers']
  met = [{*a, *b} for a, b in zip(contracted, batch)]
  met[1] |= {*groups}
  free = [((i, axis),) for i in (0, 1)
          for axis in range(len(eqn.invars[i].aval.shape))
          if axis not in met[i]]
  pairs = lambda axes: [((0, a), (1, b)) for a, b in zip(*axes)]
  return Wiring([pairs(batch) + free], pairs(contracted), kind='product')


def _windows(eqn: Any) -> Wiring:
  has, shape = eqn.params, eqn.invars[0].aval.shape
  settings = [has['window_dimensions'], has['window_strides'],
              has['padding'], has.get('base_dilation', [1] * len(shape))]
  passed = [axis for axis, (size, stride, pad, dilation)
            in enumerate(zip(*settings))
            if size == stride == dilation == 1 and tuple(pad) == (0, 0)]
  return Wiring(
      [[((0, axis),) if axis in passed else New(uniform=False)
        for axis in range(len(shape))]] * len(eqn.outvars),
      fixed=[(0, axis) for axis in range(len(shape)) if axis not in passed],
      kind='reduce')


def _conv_general_dilated(eqn: Any) -> Wiring:
  """Channels in groups are axes of their own before the other two.

  `tracing` cuts `[..., groups * channels]` into `[..., groups, channels]`, for
  the input and for the kernel's outputs, and joins the result's.
  """
  has, (lhs, rhs) = eqn.params, (v.aval.shape for v in eqn.invars)
  spec = has['dimension_numbers']
  spaces = list(zip(spec.lhs_spec[2:], spec.rhs_spec[2:], spec.out_spec[2:]))
  row: list[Any] = [None] * len(lhs)
  row[spec.out_spec[0]] = ((0, spec.lhs_spec[0]),)
  row[spec.out_spec[1]] = ((1, spec.rhs_spec[0]),)
  fixed = []
  for i, (x, w, y) in enumerate(spaces):
    plain = (rhs[w] == 1 and has['window_strides'][i] == 1
             and has['lhs_dilation'][i] == 1
             and tuple(has['padding'][i]) == (0, 0))
    row[y] = ((0, x),) if plain else New(uniform=False)
    fixed += [] if plain else [(0, x), (1, w)]
  gone = [((0, spec.lhs_spec[1]), (1, spec.rhs_spec[1]))]
  if has['batch_group_count'] > 1:
    fixed += [(0, spec.lhs_spec[0]), (1, spec.rhs_spec[0])]
    row[spec.out_spec[0]] = row[spec.out_spec[1]] = New(uniform=False)
  return Wiring([row], gone, fixed, 'product', [(1, w) for _, w, _ in spaces])


def _gather(eqn: Any) -> Wiring:
  has = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  sizes = eqn.params['slice_sizes']
  # Axes of the indices, but for the last, are the result's batch axes.
  batch = list(range(len(eqn.invars[1].aval.shape) - 1))
  paired = dict(zip(has.start_indices_batching_dims, has.operand_batching_dims))
  whole = [axis for axis in range(len(shape)) if axis not in
           {*has.collapsed_slice_dims, *has.operand_batching_dims}]
  fixed = [(0, axis) for axis in range(len(shape))
           if axis not in has.operand_batching_dims
           and sizes[axis] != shape[axis]]
  row: list[tuple[Wire, ...] | New] = []
  for axis in range(len(eqn.outvars[0].aval.shape)):
    if axis in has.offset_dims:
      source = whole.pop(0)
      row.append(New(uniform=False) if (0, source) in fixed
                 else ((0, source),))
    else:
      index = batch.pop(0)
      row.append(((1, index), (0, paired[index])) if index in paired
                 else ((1, index),))
  return Wiring([row], fixed=fixed, kind='look')


def _scatter(eqn: Any) -> Wiring:
  """Axes that updates cover pass, as the features of nodes; others do not."""
  operand, indices, updates = (v.aval.shape for v in eqn.invars)
  has = eqn.params['dimension_numbers']
  outside = {*has.inserted_window_dims, *has.operand_batching_dims}
  windows = [axis for axis in range(len(operand)) if axis not in outside]
  there = dict(zip(windows, has.update_window_dims))
  passed = [axis in there and updates[there[axis]] == size
            for axis, size in enumerate(operand)]
  used = {there[axis] for axis in windows if passed[axis]}
  row = [((0, axis), (2, there[axis])) if passes else ((0, axis),)
         for axis, passes in enumerate(passed)]
  fixed = [(0, axis) for axis, passes in enumerate(passed) if not passes]
  fixed += [(1, axis) for axis in range(len(indices))]
  fixed += [(2, axis) for axis in range(len(updates)) if axis not in used]
  return Wiring([row], fixed=fixed)


def _fft(eqn: Any) -> Wiring:
  shape = eqn.invars[0].aval.shape
  free = len(shape) - len(eqn.params['fft_lengths'])
  return Wiring(
      [[((0, axis),) if axis < free else New(uniform=False)
        for axis in range(len(shape))]],
      fixed=[(0, axis) for axis in range(free, len(shape))])


def _ragged_dot_general(eqn: Any) -> Wiring:
  """Rows in groups, each with a kernel of its own, as experts have."""
  has = eqn.params['ragged_dot_dimension_numbers']
  contracted, batch = has.dot_dimension_numbers
  groups, ragged = has.rhs_group_dimensions, has.lhs_ragged_dimensions
  if not groups or {*ragged} & {*contracted[0], *batch[0]}:
    return unknown(eqn)
  fixed = [*((0, axis) for axis in ragged), *((1, axis) for axis in groups),
           (2, 0)]
  return _dot_general(eqn, has.dot_dimension_numbers, groups)._replace(
      fixed=fixed)


def _dynamic_update_slice(eqn: Any) -> Wiring:
  outer, inner = (v.aval.shape for v in eqn.invars[:2])
  same = [a == b for a, b in zip(outer, inner)]
  return Wiring(
      [[((0, axis), (1, axis)) if match else ((0, axis),)
        for axis, match in enumerate(same)]],
      fixed=[(i, axis) for axis, match in enumerate(same) if not match
             for i in (0, 1)], kind='other')


_MAPS = '''
  abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
  bessel_i1e cbrt ceil clamp clz complex conj convert_element_type copy
  copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2
  expm1 floor ge gt igamma igammac imag integer_pow is_finite le le_to
  lgamma log log1p log2 logistic lt lt_to max mesh_cast min mul mulhi name
  ne neg nextafter not one_minus_square or polygamma population_count pow
  pvary real reduce_precision regularized_incomplete_beta rem reshard round
  rsqrt select_n sharding_constraint shift_left shift_right_arithmetic
  shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
  xor zeta'''.split()

_WIRINGS = {
    **dict.fromkeys(_MAPS, lambda eqn: _spread(eqn, 'map')),
    'device_put': _each,
    'optimization_barrier': _each,
    'transpose': _transpose,
    'broadcast_in_dim': _broadcast_in_dim,
    'squeeze': _squeeze,
    'reduce_sum': _reduction('sum'),
    **{f'reduce_{name}': _reduction('reduce')
       for name in ('max', 'min', 'prod', 'and', 'or', 'xor')},
    'argmax': _reduction('reduce'),
    'argmin': _reduction('reduce'),
    'cumsum': _along('axis', 'sum'),
    **{f'cum{name}': _along('axis', 'reduce')
       for name in ('prod', 'max', 'min')},
    'cumlogsumexp': _along('axis'),
    'sort': _along('dimension'),
    'rev': _along('dimensions', 'move'),
    'top_k': _top_k,
    'iota': _iota,
    'dot_general': _dot_general,
    'conv_general_dilated': _conv_general_dilated,
    **{f'reduce_window_{name}': _windows
       for name in ('sum', 'max', 'min')},
    # What it computes of zeros is unknown, and so is what it starts from.
    'reduce_window': lambda eqn: _windows(eqn)._replace(kind='other'),
    'gather': _gather,
    **{name: _scatter for name in (
        'scatter', 'scatter-add', 'scatter-sub', 'scatter-mul', 'scatter-min',
        'scatter-max')},
    'fft': _fft,
    'ragged_dot_general': _ragged_dot_general,
    'dynamic_update_slice': _dynamic_update_slice,
}


def wiring(eqn: Any) -> Wiring:
  """The wiring of an equation; of an unknown primitive every axis is fixed."""
  if is_known(eqn.primitive.name):
    return _WIRINGS[eqn.primitive.name](eqn)
  return unknown(eqn)


def is_known(name: str) -> bool:
  """Whether a primitive of this name has a wiring."""
  return name in _WIRINGS


# What cuts and joins axes, control flow, and what devices do together:
# `tracing` follows them itself; a test says when it does not.
FOLLOWED_ELSEWHERE = (
    'cond', 'scan', 'while', 'reshape', 'concatenate', 'stack', 'unstack',
    'pad', 'tile', 'split', 'slice', 'dynamic_slice', 'conv_general_dilated',
    'shard_map', 'psum', 'psum2', 'psum_invariant', 'pmax', 'pmin', 'ppermute',
    'all_gather', 'all_gather_invariant', 'reduce_scatter', 'axis_index')


def unknown(eqn: Any) -> Wiring:
  """The wiring of what is not followed."""
  shape = lambda v: getattr(v.aval, 'shape', ())
  return Wiring(
      [[New(uniform=False)] * len(shape(v)) for v in eqn.outvars],
      fixed=[(i, axis) for i, v in enumerate(eqn.invars)
             for axis in range(len(shape(v)))])


def _logistic(x: float) -> float:
  return 1 / (1 + math.exp(-x))


_SCALARS: dict[str, Callable[..., Any]] = {
    'abs': abs, 'add': lambda a, b: a + b, 'add_any': lambda a, b: a + b,
    'asin': math.asin, 'asinh': math.asinh, 'atan': math.atan,
    'atanh': math.atanh, 'cbrt': math.cbrt, 'ceil': math.ceil,
    'clamp': lambda low, x, high: min(max(x, low), high),
    'cos': math.cos, 'cosh': math.cosh, 'div': lambda a, b: a / b,
    'eq': lambda a, b: a == b, 'erf': math.erf, 'erfc': math.erfc,
    'exp': math.exp, 'exp2': lambda x: 2.**x, 'expm1': math.expm1,
    'floor': math.floor, 'ge': lambda a, b: a >= b, 'gt': lambda a, b: a > b,
    'integer_pow': lambda x, y: x**y, 'le': lambda a, b: a <= b,
    'log': math.log, 'log1p': math.log1p, 'log2': math.log2,
    'logistic': _logistic,
    'lt': lambda a, b: a < b, 'max': max, 'min': min,
    'mul': lambda a, b: a * b, 'ne': lambda a, b: a != b,
    'neg': lambda x: -x, 'one_minus_square': lambda x: 1 - x * x,
    'pow': lambda a, b: a**b,
    # There are two ways to round a half.
    'round': lambda x: None if x % 1 == .5 else round(x),
    'rsqrt': lambda x: x**-.5, 'select_n': lambda i, *cases: cases[int(i)],
    'sign': lambda x: (x > 0) - (x < 0), 'sin': math.sin, 'sinh': math.sinh,
    'sqrt': math.sqrt, 'square': lambda x: x * x, 'sub': lambda a, b: a - b,
    'tan': math.tan, 'tanh': math.tanh,
    **dict.fromkeys(
        ['convert_element_type', 'copy', 'copy_p', 'name', 'device_put',
         'reduce_precision', 'real', 'stop_gradient', 'sharding_constraint',
         'pvary', 'reshard', 'mesh_cast'], lambda x: x),
}


def evaluate(eqn: Any, numbers: list[float | None]) -> float | None:
  """What an elementwise primitive makes of numbers; `None` is any number.

  >>> import jax
  >>> eqn, = jax.make_jaxpr(lambda x, y: x * y)(1., 1.).eqns
  >>> evaluate(eqn, [0., None])
  0.0
  """
  name = eqn.primitive.name
  if None in numbers:
    if name in ('mul', 'and') and 0 in numbers:
      return 0.
    if name == 'div' and numbers[0] == 0:
      return 0.
    if name == 'select_n' and numbers[1:].count(numbers[1]) == len(numbers) - 1:
      return numbers[1]
    return None
  more = [eqn.params['y']] if name == 'integer_pow' else []
  dtype = eqn.outvars[0].aval.dtype
  kind = (bool if dtype == np.bool_ else
          int if jax.dtypes.issubdtype(dtype, np.integer) else float)
  try:
    return float(kind(_SCALARS[name](*numbers, *more)))
  except (KeyError, ArithmeticError, ValueError, TypeError):
    return None
