"""Odd functions of which it is known what may be permuted; see `odd_test`.

Every model is a function of parameters and inputs whose widths come from the
parameters' shapes, so that units can be taken out of it. The modules are the
table: 279 functions of a few lines each, by subject.
"""

from tests._lib.odd import attention
from tests._lib.odd import control_flow
from tests._lib.odd import ends
from tests._lib.odd import halves
from tests._lib.odd import indices
from tests._lib.odd import kernels
from tests._lib.odd import layers
from tests._lib.odd import meetings
from tests._lib.odd import orders
from tests._lib.odd import sequences
from tests._lib.odd import statistics
from tests._lib.odd import steps
from tests._lib.odd import vision
from tests._lib.odd.case import axes
from tests._lib.odd.case import ODD
from tests._lib.odd.case import SAME
