"""Which parameters of a model its layers can read packed."""

from typing import Any

from flax import nnx

from jaxsparse.nn import linen as _linen
from jaxsparse.nn import nnx as _nnx
from jaxsparse.nn.dots import Unreadable


def unreadable(model: Any, *inputs: Any, **options: Any) -> Unreadable:
  """The parameters that no layer of a model can read packed, and why.

  Dense layers read packed kernels: Linen's `Dense` and `DenseGeneral`, NNX's
  `Linear` and `LinearGeneral`, hence attention, and what inherits from them.
  Convolutions, embeddings and layers of a model's own, such as an `Einsum` or a
  `Conv1D`, do not, and neither does a parameter that two layers share, if one
  of them does not. `pack_model` leaves these dense, and so does `pack_params`
  that is given this as `dense=`.

  Args:
    model: an NNX model; or `model.apply` of Linen, or any function that calls
      it. It is traced, not run.
    *inputs: for Linen its arguments, the first of which is a dict that has
      'params'; arrays or their shapes.
    **options: more arguments, which are static.

  Returns:
    A dict from the path of each such parameter, of two axes or more, to the
    reason; it prints as a table.

  >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)),
  ...                        nnx.Conv(8, 2, (3,), rngs=nnx.Rngs(0)))
  >>> print(unreadable(model))
  stays dense      since
  ---------------  ----------------------------------------
  layers/1/kernel  Conv is none of Linear and LinearGeneral
  """
  if isinstance(model, nnx.Module):
    return _nnx.unreadable(model)
  return _linen.unreadable(model, *inputs, **options)
