"""What a run leaves for people to look at."""

from PIL import Image

from experiments.reporting import report


def test_pictures_show_what_else_was_measured(tmp_path):
  rows = [{'step': step, 'loss': 1 / step, 'bits_per_byte': 8 / step,
           'sparsity': .5} for step in (1, 2, 3)]
  sizes = []
  for more in ({}, {'flips': .1}, {'noise_kept': .1, 'noise_pruned': .2}):
    rows[-1] = {**rows[-1], **more}
    report.plot_training(tmp_path / 'plot.png', rows, title='title')
    with Image.open(tmp_path / 'plot.png') as picture:
      sizes.append(picture.height)
  assert sizes[0] < sizes[1] < sizes[2]  # A panel more each time.


def test_the_conclusion_compares_with_the_last_row_before_any_pruning():
  def told(*sparsities):
    return report.conclusion([
        {'step': step, 'accuracy': 0.9 + step / 100, 'sparsity': sparsity}
        for step, sparsity in enumerate(sparsities, start=1)])
  alternating = told(0., 0., .9, 0., .9)  # As those of AC/DC.
  assert alternating == (
      'Test accuracy 95.0% at step 5 with 90.0% of the prunable weights pruned'
      '; 92.0% at step 2, before any were.')
  assert 'before any' not in told(.9, 0., .9)
  assert 'before any' not in told(0., 0.)
