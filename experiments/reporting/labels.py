"""The names of methods as papers write them, and their colours in pictures."""

import collections
from collections.abc import Sequence
import functools
import itertools

from matplotlib import colors as colors_lib
import numpy as np

_NAMES = {
    'ac_dc': 'AC/DC',
    'cast': 'CAST',
    'chase': 'Chase',
    'dsr': 'DSR',
    'elsa': 'ELSA',
    'elsa_nm': 'ELSA N:M',
    'granet': 'GraNet',
    'learned_masks': 'MaskLLM',
    'mdgf_exponential': 'MdGf exponential',
    'mdgf_linear': 'MdGf linear',
    'mest': 'MEST',
    'prune_retrain': 'prune once, retrain',
    'rigl': 'RigL',
    'rigl_itop': 'RigL-ITOP',
    's_ste': 'S-STE',
    'sdgf_geometric': 'SdGf geometric',
    'sdgf_stepwise': 'SdGf stepwise',
    'set': 'SET',
    'snfs': 'SNFS',
    'sr_ste': 'SR-STE',
    'srigl': 'SRigL',
    'ste': 'STE',
    'step': 'STEP',
    'top_kast': 'Top-KAST',
}

# Okabe and Ito's colours, which the colour-blind can tell apart; their yellow
# is too pale for lines, so wine red stands in for it. Tol's are beside them.
_COLORS = {
    'dense': '#000000',
    'ste': '#56B4E9',
    'sr_ste': '#D55E00',
    'mdgf_linear': '#009E73',
    'mdgf_exponential': '#0072B2',
    'sdgf_stepwise': '#E69F00',
    'sdgf_geometric': '#CC79A7',
    'top_kast': '#882255',
    'set': '#56B4E9',
    'dsr': '#E69F00',
    'snfs': '#CC79A7',
    'rigl': '#D55E00',
    'rigl_itop': '#882255',
    'mest': '#009E73',
    'srigl': '#0072B2',
    'granet': '#117733',
    'ac_dc': '#AA4499',
    'elsa': '#999933',
    's_ste': '#332288',
    'step': '#999933',
    'cast': '#117733',
    'prune_retrain': '#56B4E9',
    'elsa_nm': '#999933',
    'learned_masks': '#CC79A7',
    'learned_masks_retrain': '#AA4499',
    'magnitude': '#332288',
    'wanda': '#E69F00',
    'sparsegpt': '#D55E00',
    'admm': '#009E73',
    'alps': '#0072B2',
    'chase_0': '#9ECAE1',
    'chase_30': '#4292C6',
    'chase_40': '#2171B5',
    'chase_50': '#08306B',
}
Colors = dict[str, str]  # By method.

# A variant that trains longer, or is pruned with more than its method, has the
# colour of the method and an open marker. Its shape tells what it has more.
LONG = '_long'
_VARIANTS = (LONG, '_refit', '_reconstructed', '_permuted')
_MARKERS = {'_reconstructed': '^', '_reconstructed_refit': 'v',
            '_permuted': 's', '_permuted_refit': 'D'}
_OTHER = '#7F7F7F'
_PALE, _DARK = 0.4, 0.6  # How far shades go: towards white, and of the light.


def label(method: str) -> str:
  """Returns the printed name of a method or of a variant of one.

  >>> label('sr_ste'), label('rigl_long'), label('block_4x1')
  ('SR-STE', 'RigL long', 'block 4x1')
  """
  words = method.split('_')
  for length in range(len(words), 0, -1):
    if name := _NAMES.get('_'.join(words[:length])):
      return ' '.join([name, *words[length:]])
  return ' '.join(words)


def colors(methods: Sequence[str]) -> Colors:
  """Returns a colour for each method of a sweep.

  Rows that only a sweep knows, such as `sr_ste_2e-4` and `sr_ste_2e-3`, are
  shades of one colour if their names differ in the last word only. It is that
  of the method, here of `sr_ste`, or one that is still free. So is the colour
  of a method whose own an earlier one has.

  >>> colors(['sr_ste_1', 'sr_ste_2'])
  {'sr_ste_1': '#e69e66', 'sr_ste_2': '#803800'}
  """
  found, first = {}, {}
  families = collections.defaultdict(list)  # By name, and if it has shades.
  for method in methods:
    own, base = color(method), _base(method)
    found[method] = own
    if own == _OTHER:
      families[method.rpartition('_')[0] or method, True].append(method)
    elif first.setdefault(own, base) != base:
      found[method] = _OTHER
      families[base, False].append(method)
  taken = {*found.values()}
  for (family, shaded), members in families.items():
    own = _COLORS.get(family, _OTHER)
    base = _OTHER
    if own not in (_OTHER, *taken):
      base = own
    elif free := [one for one in _COLORS.values() if one not in taken]:
      base = max(free, key=functools.partial(_contrast, others=taken))
    taken.add(base)
    found.update(zip(members, _shades(base, len(members)) if shaded
                     else itertools.repeat(base)))
  return found


def color(method: str) -> str:
  """Returns the colour of a method and of its variants; grey if unknown."""
  return _COLORS.get(_base(method), _OTHER)


def _base(method):
  """The method that a variant is one of."""
  return functools.reduce(str.removesuffix, _VARIANTS, method)


def _contrast(one, others):
  """How far a colour is from the nearest of others."""
  places = np.array([colors_lib.to_rgb(other) for other in others])
  return np.linalg.norm(places - colors_lib.to_rgb(one), axis=1).min()


def _shades(base, count):
  """From pale to dark; one is the colour itself."""
  if count == 1:
    return [base]
  middle = np.array(colors_lib.to_rgb(base))
  ends = [middle + _PALE * (1 - middle), _DARK * middle]
  return [colors_lib.to_hex((1 - part) * ends[0] + part * ends[1])
          for part in np.linspace(0, 1, count)]


def face(method: str, edge: str) -> str:
  """Returns the fill colour of a method's markers, white for variants.

  Args:
    method: the method, or a variant of one.
    edge: its colour.
  """
  return 'white' if method.endswith(_VARIANTS) else edge


def marker(method: str) -> str:
  """Returns the shape of the markers of a method or of a variant of one.

  >>> marker('wanda'), marker('wanda_permuted')
  ('o', 's')
  """
  return _MARKERS.get(method.removeprefix(_base(method)), 'o')
