"""Settings for tests of the commands; those for all stand a folder above."""

import jax
import pytest

_LAUNCHED = {
    # Optax does not work with what conftest.py asks of the library.
    'jax_numpy_dtype_promotion': 'standard',
    'jax_numpy_rank_promotion': 'allow',
    'jax_disable_most_optimizations': True,
}


@pytest.fixture(scope='module', name='launched')
def _launched():
  """Sets the settings for tests of the commands, other processes included."""
  before = {name: jax.config.values[name] for name in _LAUNCHED}
  with pytest.MonkeyPatch.context() as monkeypatch:
    for name, value in _LAUNCHED.items():
      jax.config.update(name, value)
      monkeypatch.setenv(name.upper(), str(value))
    yield
  for name, value in before.items():
    jax.config.update(name, value)
