"""Masks from scores: selection, exact counts, and summaries of masks.

`select` makes one mask from one array of scores; every mask of the library is
made by it. Selection never sorts a whole weight, and runs on the devices that
hold the scores. `summary` prints how many weights masks keep, and `mask_flips`
counts the mask entries that changed between two steps.
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
