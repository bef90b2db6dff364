"""The names of methods as papers write them, and their colours in pictures."""

import functools

_NAMES = {
    'ac_dc': 'AC/DC',
    'cast': 'CAST',
    'chase': 'Chase',
    'dsr': 'DSR',
    'elsa': 'ELSA',
    'elsa_nm': 'ELSA N:M',
    'granet': 'GraNet',
    'learned_masks': 'MaskLLM',
    'magnitude': 'gradual magnitude',
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
# A variant that trains longer, or goes on after pruning, has the colour of its
# method and an open marker.
LONG = '_long'
_VARIANTS = (LONG, '_refit', '_reconstructed', '_permuted')
_OTHER = '#7F7F7F'


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


def color(method: str) -> str:
  """Returns the colour of a method and of its variants."""
  return _COLORS.get(
      functools.reduce(str.removesuffix, _VARIANTS, method), _OTHER)


def face(method: str) -> str:
  """Returns the fill colour of a method's markers; variants have none."""
  return 'white' if method.endswith(_VARIANTS) else color(method)
