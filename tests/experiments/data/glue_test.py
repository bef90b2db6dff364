"""GLUE's tasks, read as bytes."""

import pytest

from experiments.data import glue
from tests._lib import data_files


@pytest.mark.parametrize('name, texts, labels', [
    ('sst2', [b'a "fine film', b'dull', 'café \u2028 noir'.encode()],
     [1, 0, 1]),
    ('rte', [b'It rains.\1It is wet.', b'It rains.\1It is dry.'], [0, 1]),
    ('mrpc', [b'He said so .\1So he said .', b'He came .\1She left .'], [1, 0]),
    ('cola', [b'They drank.', b'Drank they.'], [1, 0]),
])
def test_glue_reads_texts_and_labels(name, texts, labels, tmp_path):
  data_files.glue(tmp_path)
  data = data_files.load(f'glue/{name}', tmp_path, context=40)
  batch, = data.test()
  assert [bytes(row).rstrip(b'\0') for row in batch.inputs] == texts
  assert [*batch.labels] == labels


def test_texts_are_cut_to_the_context_and_pairs_share_it():
  assert glue.encode(['abcdef'], 4) == b'abcd'
  assert glue.encode(['ab'], 4) == b'ab\0\0'
  assert glue.encode(['abcdef', 'ghijkl'], 7) == b'abc\1ghi'
  assert glue.encode(['abcdef', 'g'], 7) == b'abcde\1g'
  assert glue.encode(['a', 'ghijkl'], 7) == b'a\1ghijk'


def test_glue_leaves_out_a_few_short_lines_but_not_many(tmp_path):
  data_files.glue(tmp_path)
  file = tmp_path / 'RTE/train.tsv'
  whole = file.read_text()
  header, *rows = whole.splitlines()
  file.write_text('\n'.join([header, *100 * rows, '7\tIt rains.']))
  assert data_files.load('glue/rte', tmp_path).train(0, 0, 3)
  file.write_text('\n'.join([header, *rows, '7\tIt rains.']))
  with pytest.raises(ValueError, match='4 whole lines, 1 others'):
    data_files.load('glue/rte', tmp_path)


def test_lines_end_with_line_feeds_alone(tmp_path):
  data_files.glue(tmp_path)
  file = tmp_path / 'SST-2/dev.tsv'
  file.write_bytes(b'sentence\tlabel\r\na fine\rfilm\t1\r\ndull\t0\n')
  batch, = data_files.load('glue/sst2', tmp_path, context=16).test()
  assert [bytes(row).rstrip(b'\0') for row in batch.inputs] == [
      b'a fine\rfilm', b'dull']
  assert [*batch.labels] == [1, 0]


def test_foreign_columns_and_labels_are_told(tmp_path):
  data_files.glue(tmp_path)
  file = tmp_path / 'SST-2/train.tsv'
  file.write_text('text\tlabel\nfine\t1\n')
  assert 'no column sentence' in data_files.error('glue/sst2', tmp_path)
  file.write_text('sentence\tlabel\nfine\t1\ndull\tno\n')
  assert 'line 3 has the label \'no\', not one of 0, 1' in data_files.error(
      'glue/sst2', tmp_path)
