"""Trees of parameters, and what a function returns."""

import jax.numpy as jnp

from tests._lib.odd.case import D
from tests._lib.odd.case import hidden
from tests._lib.odd.case import MLP
from tests._lib.odd.case import N
from tests._lib.odd.case import odd
from tests._lib.odd.case import over
from tests._lib.odd.case import TIE
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights


@odd(lambda: {**weights({**MLP, 'unused': (7, 5), 'scalar': ()}),
              'empty': jnp.zeros((0, 7))}, (N, D), found=TIE,
     any_width=False)
def unused_empty_and_scalar(p, x):
  nothing = jnp.zeros((N, 0)) @ p['empty']
  return p['scalar'] * ((hidden(p, x) + nothing) @ p['out'])


@odd({'one': (7, 1), 'two': (1, 7), 'in': (D, 1)}, (N, D),
     found='one:0 two:1')
def axes_of_one(p, x):
  return (x @ p['in']) @ (p['two'] @ p['one'])


@odd({'in': (D, 7), 'b': (7,)}, (N, D), never='in:1 b:0')
def returned_in_a_dict(p, x):
  h = hidden(p, x)
  return {'sum': h.sum(-1), 'h': h}


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), never=TIE)
def a_parameter_returned(p, x):
  return hidden(p, x) @ p['out'], p['b']


@odd({'in': (D, 7), 'b': (7,), 'out': (7, 3)}, (N, D), found=TIE)
def a_penalty_returned(p, x):
  return hidden(p, x) @ p['out'], sum(jnp.sum(w**2) for w in p.values())


@odd(MLP, data(N, D).astype(jnp.bfloat16), found=TIE)
def mixed_precision(p, x):
  h = jnp.tanh(x @ p['in'].astype(x.dtype)).astype(jnp.float32)
  return (h + over(p['b'], h)) @ p['out']
