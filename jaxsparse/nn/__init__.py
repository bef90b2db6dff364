"""Flax: models on packed 2:4 weights, layers that hold them, smaller models.

A pruned model runs on packed parameters as it is. Linen's parameters are
outside of the model, so that calling it is what changes:

    packed = jaxsparse.pack_params(params, rules)
    y = nn.accept_packed(model.apply)({'params': packed}, x)

An NNX model holds them itself:

    model = nn.pack_model(model, rules)
    y = model(x)

Layers that cannot read packed weights, such as convolutions, keep dense ones:
`pack_model` sees to that, and for Linen `pack_params(..., dense=unreadable(
model.apply, {'params': params}, x))`.

`Dense` (Linen) and `Linear` (NNX) are Flax's layers, packed from the start.
`dot_general` is `lax.dot_general` with a packed right side; where a model takes
a `dot_general=`, `training_dot_general` is the product of 2:4 training.

`slim_model` cuts dead units out of an NNX model, arrays and widths.

On a mesh whose axes are the compiler's, kernels cannot be partitioned; there
give `implementation='xla'`, or write the layer by
`jaxsparse.packed.sharded_matmul`.

Flax is no dependency of the library, so this is imported by who has it:
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
