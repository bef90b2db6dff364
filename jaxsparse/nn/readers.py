"""`unreadable`: parameters of a model that its layers cannot read packed."""

from typing import Any

from flax import nnx

from jaxsparse.nn import linen as _linen
from jaxsparse.nn import nnx as _nnx
from jaxsparse.nn.dots import Unreadable


def unreadable(model: Any, *inputs: Any, **options: Any) -> Unreadable:
  """The parameters that no layer of a model can read packed, with reasons.

  Dense layers can read packed kernels: Linen's `Dense` and `DenseGeneral`,
  NNX's `Linear` and `LinearGeneral`, hence attention, and their subclasses.
  Convolutions, embeddings and custom layers, such as an `Einsum` or a `Conv1D`,
  cannot. A parameter that two layers share is unreadable if one of the layers
  cannot read it. `pack_model` leaves unreadable parameters dense, and so does
  `pack_params(..., dense=unreadable(...))`.

  Args:
    model: an NNX model; or the `model.apply` of a Linen model, or any function
      that calls it. The function is traced, not run.
    *inputs: for Linen, the arguments of the function, arrays or their shapes.
      The first one is a dict that has 'params'.
    **options: more arguments of the function, which are static.

  Returns:
    A dict that maps the path of each such parameter with two axes or more to
    the reason. It prints as a table, without the biases of layers that read
    packed kernels.

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
