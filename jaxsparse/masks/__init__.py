"""Masks from scores: selection, exact counts, and tables of what masks keep.

`select` makes one mask from one array of scores; every mask of the library goes
through it. Selection never sorts a whole weight and stays on the devices that
hold the scores. `summary` prints what masks keep and `mask_flips` counts what
changed between two steps.
"""

from jaxsparse.masks.accounting import Layer
from jaxsparse.masks.accounting import mask_flips
from jaxsparse.masks.accounting import Summary
from jaxsparse.masks.accounting import summary
from jaxsparse.masks.selection import Kept
from jaxsparse.masks.selection import select
from jaxsparse.masks.selection import select_each

__all__ = [
    'Kept', 'Layer', 'mask_flips', 'select', 'select_each', 'summary',
    'Summary',
]
