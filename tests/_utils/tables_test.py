"""Tables: columns, lines between groups, no spaces at the ends."""

from jaxsparse._utils.tables import table


def test_columns_are_as_wide_as_their_widest_cell():
  text = table([('a', 'b')], [('long', 'x'), ('', 'wide')], [('end', '')],
               right=[1])
  assert text.split('\n') == ['a        b', '----  ----', 'long     x',
                              '      wide', '----  ----', 'end']


def test_a_table_may_be_empty_but_for_its_head():
  assert table([('a', 'b')], []) == 'a  b'
