"""Models of which it is known what may be permuted, and what multiplies data.

`CASES` lists functions that build a `Case`; `tests/zoo_test.py` shows that what
they say is true.
"""

from tests import zoo_convs
from tests import zoo_dense
from tests import zoo_hostile
from tests import zoo_recurrent
from tests import zoo_transformers
from tests.zoo_case import Case
from tests.zoo_case import CASES

__all__ = ['CASES', 'Case', 'zoo_convs', 'zoo_dense', 'zoo_hostile',
           'zoo_recurrent', 'zoo_transformers']
