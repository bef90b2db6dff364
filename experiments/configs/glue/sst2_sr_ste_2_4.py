r"""Sentiment of film reviews (GLUE's SST-2) from bytes, 2:4 by SR-STE.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/glue/sst2_sr_ste_2_4.py \
      --workdir=runs/glue/sst2_sr_ste_2_4 \
      --config.data_dir=DIR

DIR holds SST-2/train.tsv and SST-2/dev.tsv of
https://gluebenchmark.com/tasks. For another task add, for example,
--config.dataset=glue/rte: cola, mrpc, qqp, mnli, qnli, rte or wnli.

No accuracy is stated: the data set is not shipped.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.dataset = 'glue/sst2'
  config.context = 256
  config.model = 'text'
  config.width = 128
  config.steps = 10_000
  config.batch_size = 32
  config.learning_rate = 1e-3
  config.weight_decay = 0.1
  config.log_every = 500
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
