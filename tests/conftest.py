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
import pytest  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Tests compile much and run little.
jax.config.update('jax_disable_most_optimizations', True)

_LAUNCHED = {
    # Optax does not work with what conftest.py asks of the library.
    'jax_numpy_dtype_promotion': 'standard',
    'jax_numpy_rank_promotion': 'allow',
    'jax_disable_most_optimizations': True,
    'jax_persistent_cache_min_compile_time_secs': 0,
}


@pytest.fixture(scope='module', name='launched')
def _launched(tmp_path_factory):
  """Sets the settings for tests of the commands, other processes included."""
  settings = {**_LAUNCHED, 'jax_compilation_cache_dir': str(
      tmp_path_factory.mktemp('cache'))}
  before = {name: jax.config.values[name] for name in settings}
  with pytest.MonkeyPatch.context() as monkeypatch:
    for name, value in settings.items():
      jax.config.update(name, value)
      monkeypatch.setenv(name.upper(), str(value))
    yield
  for name, value in before.items():
    jax.config.update(name, value)
