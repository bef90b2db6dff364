"""Pruning of one kernel of a model, by the methods and their names."""

import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import meshes
from jaxsparse._utils import warning
from jaxsparse.calibration import _common
from jaxsparse.calibration._admm import admm
from jaxsparse.calibration._alps import alps
from jaxsparse.calibration._layouts import Layout
from jaxsparse.calibration._reconstruction import reconstruction_error
from jaxsparse.calibration._reconstruction import refit
from jaxsparse.calibration._sparsegpt import sparsegpt
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.calibration._wanda import wanda
from jaxsparse.masks import selection
from jaxsparse.patterns import Pattern

# From w [in, out], h [in, in], pattern and sparsity to weights and mask.
Prune = Callable[..., tuple[jax.Array, jax.Array]]

_DAMPING = 0.01  # Damping of `h` in a refit, relative to its mean diagonal.


class Method(NamedTuple):
  """A function that prunes a matrix, and the kind of statistic that it takes.

  Attributes:
    prune: the function of a matrix, a statistic, a pattern and a sparsity.
    kind: the kind of statistic, 'norm' or 'moment'; `None` without one.
  """
  prune: Prune
  kind: str | None


def _magnitude(w: jax.Array, statistic: Any, pattern: Pattern, sparsity: Any
               ) -> tuple[jax.Array, jax.Array]:
  del statistic
  mask = selection.select(
      jnp.abs(w), pattern, _common.kept(pattern, w.shape, sparsity))
  return jnp.where(mask, w, 0), mask


def _wanda(w: jax.Array, statistic: jax.Array, pattern: Pattern, sparsity: Any
           ) -> tuple[jax.Array, jax.Array]:
  squares = statistic if statistic.ndim == 1 else jnp.diagonal(statistic)
  mask = wanda(w, squares, pattern, sparsity)
  return jnp.where(mask, w, 0), mask


_METHODS = {
    'magnitude': Method(_magnitude, None), 'wanda': Method(_wanda, 'norm'),
    'sparsegpt': Method(sparsegpt, 'moment'), 'admm': Method(admm, 'moment'),
    'alps': Method(alps, 'moment')}


def method(name: str | Prune, fitted: bool) -> Method:
  """The method with a name, or a method from a function of the user.

  Args:
    name: a name from `one_shot`, or a function.
    fitted: whether to solve for the kept weights afterwards.
  """
  if callable(name):
    found = Method(name, 'moment')
  elif name in _METHODS:
    found = _METHODS[name]
  else:
    raise ValueError(
        f'method must be one of {[*_METHODS]}, or a function of w [in, out], '
        f"h [in, in], pattern and sparsity, got {name!r}. Write e.g. method="
        "'sparsegpt'.")
  return Method(functools.partial(_fitted, found.prune), 'moment') if (
      fitted) else found


def _fitted(prune: Prune, w: jax.Array, h: jax.Array, pattern: Pattern,
            sparsity: Any) -> tuple[jax.Array, jax.Array]:
  v, mask = prune(w, h, pattern, sparsity)
  return refit(w, _common.damped(h, _DAMPING), mask, start=v), mask


class Pruned(NamedTuple):
  """A kernel, its mask, and the error of each matrix, NaN if unknown."""
  kernel: jax.Array
  mask: jax.Array
  error: np.ndarray


def prune(name: str, w: jax.Array, statistic: Statistic | None, layout: Layout,
          how: Method, sparsity: Any) -> Pruned:
  """Prunes a kernel, or one layer of a stacked kernel.

  Args:
    name: the name of the kernel, for errors.
    w: the kernel.
    statistic: the statistic of its inputs; `None` if the method takes none.
    layout: the layout of the kernel as a stack of matrices.
    how: the method.
    sparsity: the fraction pruned; an array has one number for each matrix.

  Raises:
    ValueError: if the method raises one, or the statistic or the result has
      NaN.
  """
  found = meshes.automatically(
      lambda w, x, s: _prune(name, w, x, layout, how, s),
      w, statistic, sparsity)
  return found._replace(kernel=meshes.like(found.kernel, w),
                        mask=meshes.like(found.mask, w))


def _prune(name: str, w: jax.Array, statistic: Statistic | None, layout: Layout,
           how: Method, sparsity: Any) -> Pruned:
  x, moment = None, how.kind == 'moment'
  if statistic is not None:
    _check(name, statistic)
    x = layout.statistic(statistic.sum, moment)
  if not bool(jnp.isfinite(w).all()):
    raise ValueError(
        f'{name} must have finite weights, but has NaN or infinities. Check '
        'the checkpoint it was restored from.')
  m = layout.matrices(w)
  each = sparsity if isinstance(sparsity, jax.Array) else None
  if each is not None and layout.groups > 1:
    each = jnp.repeat(each[..., None], layout.groups, -1)
  arrays = [m, x, each]

  def one(m, x, s):
    v, mask = how.prune(m, x, layout.pattern, sparsity if s is None else s)
    return v, mask, reconstruction_error(m, v, x) if moment else ()
  mapped = one
  for _ in range(m.ndim - 2):
    mapped = jax.vmap(mapped, [None if a is None else 0 for a in arrays])
  try:
    v, mask, error = mapped(*arrays)
  except ValueError as problem:
    raise ValueError(f'{name}: {problem}') from problem
  if bool(jnp.isnan(v).any()):
    raise ValueError(
        f'{name}: h is not positive definite. Give more inputs, or write a '
        'method with more damping, such as '
        'method=functools.partial(calibration.sparsegpt, damping=.1).')
  # On the host: NaN made on a device would stop `jax_debug_nans`.
  errors = np.asarray(error) if moment else np.full(
      m.shape[:-2], np.nan, np.float32)
  return Pruned(layout.kernel(v), layout.kernel(mask),
                errors.mean(-1) if layout.groups > 1 else errors)


def _check(name: str, statistic: Statistic) -> None:
  if not bool(jnp.isfinite(statistic.sum).all()):
    raise ValueError(
        f'{name}: the inputs of this kernel must be finite, but have NaN or '
        'infinities. Check the outputs of the dense model on these batches; '
        '16-bit activations may need float32.')
  unseen = int((statistic.count == 0).sum())
  if unseen:
    warning.warn(
        f'{name}: {unseen} of its {statistic.count.size} matrices, such as '
        'experts, received no input, so their weights cannot be compared. '
        'Give more batches.')
