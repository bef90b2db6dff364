"""Settings for all tests: eight devices, strict dtypes, no broadcasting ranks.

Warnings are errors by `pyproject.toml`.
"""

import os

# Before jax is imported anywhere: a mesh of eight CPU devices.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_force_host_platform_device_count=8')
os.environ.setdefault('MPLBACKEND', 'agg')

import jax  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
