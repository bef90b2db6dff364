"""Compressed weights, and products with them.

`pack` stores 2:4 weights in 0.56 of the memory, and `condense` stores weights
of blocks along outputs or of constant fan-in. `matmul` multiplies with both, by
kernels for Hopper GPUs and TPUs, or by XLA on any platform. `training_matmul`
is the product of 2:4 training. `pack_params` packs a tree of parameters,
`sharded_matmul` and `sharded_training_matmul` multiply on a mesh, and `missing`
returns the reason why this machine cannot run a kernel.
"""

from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed._dispatch import missing
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import Condensed
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.layout24 import pack
from jaxsparse.packed.layout24 import Packed24
from jaxsparse.packed.layout24 import unpack
from jaxsparse.packed.layout24 import with_layout
from jaxsparse.packed.packed_params import pack_params
from jaxsparse.packed.packed_params import unpack_params
from jaxsparse.packed.products import matmul
from jaxsparse.packed.sharded_training import sharded_training_matmul
from jaxsparse.packed.sharding import partition_specs
from jaxsparse.packed.sharding import sharded_matmul
from jaxsparse.packed.training_product import training_matmul

__all__ = [
    'condense', 'Condensed', 'Implementation', 'matmul', 'missing', 'pack',
    'pack_params', 'Packed24', 'partition_specs', 'sharded_matmul',
    'sharded_training_matmul', 'training_matmul', 'uncondense', 'unpack',
    'unpack_params', 'with_layout',
]
