"""The choice of the implementation of a product: the first that can serve.

Each backend has its own file, `_gpu`, `_tpu` or `_xla`. Its products are
functions of `x`, the weight and the dtype of the result. A product that cannot
serve raises `NotImplementedError`, and the next backend is tried.
"""

from typing import Any, Callable, Mapping, Sequence

import jax
from jax import lax

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from jaxsparse.packed import _gpu
from jaxsparse.packed import _tpu

Implementation = str | Sequence[str] | None
Product = Callable[[jax.Array, Any, Any], jax.Array]

# What each implementation is called when a program is lowered.
_PLATFORMS = {'gpu': 'cuda', 'tpu': 'tpu', 'xla': None}
_MISSING = {'gpu': _gpu.missing, 'tpu': _tpu.missing}


def names_of(implementation: Implementation) -> tuple[str, ...] | None:
  """A tuple of names, or `None`."""
  if implementation is None:
    return None
  names = ((implementation,) if isinstance(implementation, str)
           else tuple(implementation))
  if not names or not set(names) <= set(_PLATFORMS):
    raise ValueError(
        f'implementation must be one of {tuple(_PLATFORMS)}, several of them, '
        f'or None, got {brief(implementation)}. Write e.g. '
        "implementation='xla'.")
  return names


@arguments.checked()
def missing(implementation: str) -> str | None:
  """The reason why this machine cannot run an implementation, or `None`.

  Args:
    implementation: the implementation, 'gpu', 'tpu' or 'xla'.

  Returns:
    The reason as text, or `None` if the machine can run it. XLA runs on every
    machine.

  >>> missing('xla') is None
  True
  """
  return _MISSING.get(implementation, lambda: None)()


def run(names: tuple[str, ...] | None, choices: Mapping[str, Product],
        x: jax.Array, w: Any, dtype: Any) -> jax.Array:
  """Runs the first implementation that can serve, or that of the platform.

  Args:
    names: the names of implementations, as returned by `names_of`.
    choices: the product of each implementation. Implementations without this
      product are left out; XLA must be present.
    x: the inputs, `[..., K]`.
    w: the weight.
    dtype: the dtype of the result.

  Returns:
    The product.

  Raises:
    NotImplementedError: if none of these names can serve, with all reasons.
  """
  if names is None:
    # Which GPU it will be is known only of this machine's.
    kernels = {
        platform: _with_dtype(product, dtype)
        for name, product in choices.items()
        if (platform := _PLATFORMS[name]) is not None
        and not (name == 'gpu' and missing(name))
        and not _refusal(product, x, w, dtype)}
    return lax.platform_dependent(
        x, w, default=_with_dtype(choices['xla'], dtype), **kernels)
  reasons = []
  for name in names:
    product = choices.get(name, _no_product)
    refusal = None if name == 'xla' else _refusal(product, x, w, dtype)
    why = list(filter(None, (missing(name), refusal)))
    if not why:
      return product(x, w, dtype)
    reasons.append(f'{name}: {", and ".join(why)}')
  raise NotImplementedError(
      'No requested implementation of the packed product can serve: '
      + '; '.join(reasons) + '. Write implementation=None, which falls back '
      'to XLA.')


def _refusal(product: Product, x: jax.Array, w: Any, dtype: Any) -> str | None:
  """Why a kernel cannot serve operands; `None` if it can."""
  # It sees one device, and what the compiler shards it does not tell.
  if any(any(jax.typeof(a).sharding.spec) for a in jax.tree.leaves((x, w))):
    return 'the operands are sharded; write jaxsparse.packed.sharded_matmul'
  try:
    jax.eval_shape(_with_dtype(product, dtype), x, w)
  except NotImplementedError as error:
    return str(error)
  return None


def _with_dtype(product: Product, dtype: Any) -> Callable[..., jax.Array]:
  return lambda x, w: product(x, w, dtype)


def _no_product(x: jax.Array, w: Any, dtype: Any) -> jax.Array:
  raise NotImplementedError('does not do this product')
