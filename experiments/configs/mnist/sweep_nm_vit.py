r"""N:M from scratch at 2:4 to 1:64, in a vision transformer on 28 x 28 digits.

  pip install -e '.[data]'
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_nm_vit.py \
      --workdir=runs/mnist/sweep_nm_vit

The transformer of `dense_vit.py`, with the rows of `plays/sweep_nm.py`. Each
method is first tried with each learning rate at 1:8 on a seed of its own, and
then uses its best one. `sr_ste_long` trains 1.3 times as long, at 1:8 for about
the FLOPs of `mdgf_linear`.
"""

from experiments.configs.mnist import dense_vit
from experiments.configs.plays import sweep_nm


def get_config():
  config = sweep_nm.get_config()
  config.base = dense_vit.get_config()
  config.only.sr_ste_long.steps = config.base.steps * 13 // 10
  config.targets = ('2:4', '1:8', '1:32', '1:64')
  return config
