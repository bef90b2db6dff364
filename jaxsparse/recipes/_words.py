"""Words of recipes, the functions they stand for, and the levels of options.

Each table maps the words that a key takes. A new word needs a new row, and a
level if it has options.
"""

import dataclasses
import functools
import inspect
from typing import Any, Callable, Mapping, NamedTuple

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import methods
from jaxsparse import patterns
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse import units
from jaxsparse.recipes import _checks
from jaxsparse.recipes._checks import key
from jaxsparse.recipes._checks import Level


class Row(NamedTuple):
  """The meaning of a word that may have options.

  Attributes:
    make: the function of the options that the word stands for.
    options: the level that declares the options.
    by_gradient: whether a score needs gradients, so that the first update makes
      the first scores.
    accumulates: whether a score is a sum over steps, in a `score_dtype`.
  """
  make: Callable[..., Any]
  options: type[Level] = Level
  by_gradient: bool = False
  accumulates: bool = False


SCOPES = {
    'uniform': distributions.uniform, 'global': distributions.global_threshold,
    'erk': distributions.erk, 'er': distributions.er}
DECAYS = {  # Functions of start, end, and the sparsities there.
    'one_shot': lambda start, *_: schedules.one_shot(start),
    'linear': lambda start, end, *_: schedules.linear(start, end),
    'cubic': lambda start, end, *_: schedules.cubic(start, end),
    'cosine': lambda start, end, *_: schedules.cosine(start, end),
    'cube': lambda start, end, *_: schedules.cube(start, end),
    # At the end, (1 - s_f) / (1 - s_i) of the weights kept at start are kept.
    'exponential': lambda start, end, initial, final: schedules.exponential(
        start, end, final_sparsity=(final - initial) / (1. - initial))}
FADES = {
    'linear': schedules.fade_linear,
    'exponential': schedules.fade_exponential, 'cosine': schedules.fade_cosine}
PATTERNS = {  # Words; blocks and N:M are written as numbers.
    'unstructured': lambda reduce, **bounds: patterns.unstructured(**bounds),
    'channel': functools.partial(patterns.channel, -1),
    '1xchannel': functools.partial(patterns.channel, -1),
    'channelx1': functools.partial(patterns.channel, -2)}


@dataclasses.dataclass(frozen=True)
class SnipMomentum(Level):
  """Options of the criterion `snip_momentum`."""
  decay: float = key(_checks.number, 1., 'the factor of the sum at each step')
  scale: float = key(_checks.number, .9, 'the factor of the newest product')


CRITERIA = {
    'magnitude': Row(scores.magnitude),
    'snip': Row(scores.saliency, by_gradient=True),
    'gradient': Row(scores.gradient, by_gradient=True),
    'snip_momentum': Row(
        scores.snip_momentum, SnipMomentum, by_gradient=True, accumulates=True)}


@dataclasses.dataclass(frozen=True)
class SrSte(Level):
  """Options of the flow `sr_ste`."""
  decay: float = key(_checks.number, 2e-4, 'the decay of pruned weights')
  decoupled: bool = key(
      _checks.flag, False, 'true decays after the optimizer, as AdamW does')


@dataclasses.dataclass(frozen=True)
class Mdgf(Level):
  """Options of the flow `mdgf`, in which pruned weights fade out."""
  fade: str = key(_checks.one_of(FADES), 'linear', 'the curve of their gain')
  start: int = key(
      _checks.whole(0, '1000'), lambda recipe, total_steps: total_steps // 10,
      'the last step with gain 1', '10% of training')
  end: int = key(
      _checks.whole(0, '1000'),
      lambda recipe, total_steps: total_steps * 7 // 10,
      'the first step with gain 0', '70% of training')
  straight_through: bool = key(
      _checks.flag, True, 'false multiplies their gradient by the gain')

  def check(self, where: str, total_steps: int) -> None:
    if not self.start < self.end <= total_steps:
      raise ValueError(
          f'{where} needs start < end <= total_steps, in steps, got start='
          f'{self.start}, end={self.end} and total_steps={total_steps}. Write '
          f'e.g. start: 0 and end: {max(total_steps * 7 // 10, 1)}')


FLOWS = {
    'hard': Row(flows.hard), 'ste': Row(flows.ste),
    'sr_ste': Row(flows.sr_ste, SrSte),
    'mdgf': Row(lambda fade, start, end, straight_through: flows.mdgf(
        FADES[fade](start, end), straight_through), Mdgf)}


# Published methods, by their names. A new one needs its line here, unless it
# takes what no file holds, as chase takes ties, or makes no rule, as
# learned_masks does.
METHODS = {function.__name__: function for function in (
    methods.ste, methods.sr_ste, methods.s_ste, methods.cast, methods.step,
    methods.mdgf_linear, methods.mdgf_exponential, methods.sdgf_stepwise,
    methods.sdgf_geometric, methods.top_kast, methods.train_prune_retrain,
    methods.set_training, methods.dsr, methods.snfs, methods.rigl,
    methods.rigl_itop, methods.mest, methods.granet, methods.ac_dc,
    methods.elsa)}


def takes_sparsity(method: str) -> bool:
  """Whether a method is told a sparsity, or has that of N:M.

  >>> takes_sparsity('granet'), takes_sparsity('sr_ste')
  (True, False)
  """
  return 'sparsity' in inspect.signature(METHODS[method]).parameters


def takes_scope(method: str) -> bool:
  """Whether a method is told how layers share its sparsity.

  >>> takes_scope('rigl'), takes_scope('granet')
  (True, False)
  """
  return takes_sparsity(method) and inspect.signature(
      METHODS[method]).parameters['sparsity'].annotation is not float


@dataclasses.dataclass(frozen=True)
class GroupLasso(Level):
  """Options of the regularizer `group_lasso`, on the units of patterns."""
  alpha: float = key(_checks.number, None, 'the strength', 'required')
  form: str = key(
      _checks.one_of(('gradient', 'proximal')), 'gradient',
      'a term of gradients, or a step after the optimizer')
  learning_rate: float | None = key(
      _checks.number, None, 'the step size of the proximal form',
      'required for it')
  scaled: bool = key(
      _checks.flag, False,
      'true multiplies alpha by the root of the size of a unit')

  def check(self, where: str, total_steps: int) -> None:
    if self.alpha is None:
      raise ValueError(
          f'{where}: group_lasso needs its strength alpha, got none. Write '
          'e.g. regularizer: {group_lasso: {alpha: 0.001}}')
    if (self.form == 'proximal') != (self.learning_rate is not None):
      raise ValueError(
          f'{where}: the proximal form of group_lasso needs a learning_rate, '
          f'and the gradient form takes none, got {vars(self)}. Write e.g. '
          '{alpha: 0.001, form: proximal, learning_rate: 0.001}')


def _group_lasso(groups, *, alpha, form, learning_rate, scaled):
  """The transforms before an optimizer, and the transforms after it."""
  if form == 'gradient':
    return [units.add_group_lasso(alpha, groups, scaled=scaled)], []
  return [], [units.prox_group_lasso(
      alpha, groups, learning_rate, scaled=scaled)]


REGULARIZERS = {'group_lasso': Row(_group_lasso, GroupLasso)}


def _every(recipe: Mapping[str, Any], total_steps: int) -> int:
  several = recipe['start'] < recipe['end']
  room = recipe['frequency'] if several else total_steps // 25
  return max(room // recipe['steps'], 1)


@dataclasses.dataclass(frozen=True)
class Progressive(Level):
  """Options of `progressive`."""
  steps: int = key(_checks.whole(1, '4'), 4, 'the portions of each mask')
  every: int = key(
      _checks.whole(1, '25'), _every,
      'the number of steps from one portion to the next',
      '`frequency`, or 4% of training for a single mask, divided by `steps`')
