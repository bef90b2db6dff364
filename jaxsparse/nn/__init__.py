"""Flax: models with packed 2:4 weights, and models without dead units.

A pruned model runs on packed parameters without changes to its code. Linen's
parameters are outside of the model, so only the call changes:

    packed = jaxsparse.pack_params(params, rules)
    y = nn.accept_packed(model.apply)({'params': packed}, x)

An NNX model holds its parameters itself:

    model = nn.pack_model(model, rules)
    y = model(x)

Layers that cannot read packed weights, such as convolutions, keep dense ones.
`pack_model` leaves these weights dense; for Linen, write
`pack_params(..., dense=unreadable(model.apply, {'params': params}, x))`.

`Dense` (Linen) and `Linear` (NNX) are Flax's layers with kernels that are
packed from the start. `dot_general` is `lax.dot_general` with a packed right
side. Give `training_dot_general` to models that take a `dot_general=`, for the
products of 2:4 training.

`slim_model` removes dead units from the arrays of an NNX model, and updates the
widths in its attributes.

The compiler cannot partition the kernels on a mesh with Auto axes. There, write
`implementation='xla'`, or build the layer from
`jaxsparse.packed.sharded_matmul`.

The library does not depend on Flax, so import this package explicitly:
`from jaxsparse import nn`.
"""

from jaxsparse.nn.dots import dot_general
from jaxsparse.nn.dots import training_dot_general
from jaxsparse.nn.linen import accept_packed
from jaxsparse.nn.linen import Dense
from jaxsparse.nn.nnx import Linear
from jaxsparse.nn.nnx import pack_model
from jaxsparse.nn.readers import unreadable
from jaxsparse.nn.slimming import slim_model

__all__ = [
    'accept_packed', 'Dense', 'dot_general', 'Linear', 'pack_model',
    'slim_model', 'training_dot_general', 'unreadable',
]
