"""Models of which it is known what may be permuted, and what multiplies data.

`CASES` lists functions that build a `Case`; `tests/zoo_test.py` shows that what
they say is true.
"""

from tests._lib import zoo_convs
from tests._lib import zoo_dense
from tests._lib import zoo_hostile
from tests._lib import zoo_recurrent
from tests._lib import zoo_transformers
from tests._lib.zoo_case import Case
from tests._lib.zoo_case import CASES

__all__ = ['CASES', 'Case', 'zoo_convs', 'zoo_dense', 'zoo_hostile',
           'zoo_recurrent', 'zoo_transformers']
