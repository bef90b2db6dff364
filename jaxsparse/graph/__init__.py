"""Reads a function's jaxpr: its kernels, operands of products, FLOPs.

The functions of this package trace a function and never run it. `infer_kernels`
finds the parameters that multiply data, `kernel_patterns` returns patterns for
`prune` on the right axes, and `flops` counts products by parameter.
`register_primitive` declares the axes of a primitive that is not JAX's.
"""

from jaxsparse.graph._flops import Flops
from jaxsparse.graph._flops import flops
from jaxsparse.graph.kernel_axes import infer_kernels
from jaxsparse.graph.kernel_axes import Kernel
from jaxsparse.graph.kernel_axes import kernel_patterns
from jaxsparse.graph.kernel_axes import KernelPatterns
from jaxsparse.graph.kernel_axes import Kernels
from jaxsparse.graph.kernel_axes import last_kernels
from jaxsparse.graph.primitives import New
from jaxsparse.graph.primitives import Wiring
from jaxsparse.graph.registry import register_primitive

__all__ = [
    'Flops', 'flops', 'infer_kernels', 'Kernel', 'kernel_patterns',
    'KernelPatterns', 'Kernels', 'last_kernels', 'New', 'register_primitive',
    'Wiring',
]
