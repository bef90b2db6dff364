"""The shapes of a network without some of its units, to make it anew."""

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
  """The shapes that parameters will have after `slim`, by module.

  Of a parameter `w` of shape `[n_0, n_1, ...]`, axis `i` will have

    n_i - (indices of axis i whose units go).

  A model whose widths are arguments is made anew with them:

    width = sizes(ties, keep)['encoder/dense']['kernel'][-1]

  Args:
    ties: from `infer_ties`, or by hand as `Ties(ties, shapes)`.
    keep: by name of tie, bool of `tie.shape`, as of `slim`, such as from
      `alive` or `keep_units`.

  Returns:
    By path of module, which is a parameter's path without its last key, and
    then by that key, the new shape; of all parameters, also those that lose
    nothing. Parameters at the root have the module ''.

  Raises:
    ValueError: as of `slim`, or if ties do not know the shapes of parameters.

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
        f'Ties do not know the shapes of parameters, such as {min(lost)}. '
        "Infer ties, or write e.g. Ties(ties, {'fc1/kernel': (784, 256)}).")
  plan, found = removal.plan(ties, keep), collections.defaultdict(dict)
  for path, shape in ties.shapes.items():
    module, _, name = path.rpartition('/')
    found[module][name] = plan.shape(path, tuple(shape))
  return dict(found)
