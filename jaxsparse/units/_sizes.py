"""`sizes`: the shapes of a network without some of its units."""

import collections
from typing import Any, Mapping, Sequence

from jaxsparse._utils import arguments
from jaxsparse.units import removal
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


@arguments.checked()
def sizes(ties: Ties | Sequence[Tie], keep: Mapping[str, Any]
          ) -> dict[str, dict[str, tuple[int, ...]]]:
  """The shapes of parameters after `slim`, by module.

  Axis `i` of a parameter of shape `[n_0, n_1, ...]` will have the size

    n_i - (number of indices of axis i whose units are removed).

  Use the shapes to build a model whose widths are arguments:

    width = sizes(ties, keep)['encoder/dense']['kernel'][-1]

  Args:
    ties: the ties, from `infer_ties` or written as `Ties(ties, shapes)`.
    keep: maps names of ties to bool arrays of `tie.shape`, as for `slim`, such
      as the result of `alive` or `keep_units`.

  Returns:
    A dict from paths of modules to dicts from keys to new shapes, for all
    parameters. The path of a module is a parameter's path without its last key;
    parameters at the root have the module ''.

  Raises:
    ValueError: for the reasons of `slim`, or if `ties` does not have the shapes
      of parameters.

  >>> from jaxsparse.units.ties import Member
  >>> tie = Tie(3, (Member('in/kernel', 1), Member('in/bias', 0),
  ...               Member('out/kernel', 0)), name='hidden')
  >>> ties = Ties((tie,), {'in/kernel': (2, 3), 'in/bias': (3,),
  ...                      'out/kernel': (3, 1)})
  >>> sizes(ties, {'hidden': [True, False, True]})
  {'in': {'kernel': (2, 2), 'bias': (2,)}, 'out': {'kernel': (2, 1)}}
  """
  ties = ties_lib.as_ties(ties)
  lost = {m.path for tie in ties for m in tie.members} - {*ties.shapes}
  if lost:
    raise ValueError(
        'sizes needs ties with the shapes of all parameters, got none for '
        f'{min(lost)}. Infer ties, or write e.g. Ties(ties, '
        "{'fc1/kernel': (784, 256)}).")
  plan, found = removal.plan(ties, keep), collections.defaultdict(dict)
  for path, shape in ties.shapes.items():
    module, _, name = path.rpartition('/')
    found[module][name] = plan.shape(path, tuple(shape))
  return dict(found)
