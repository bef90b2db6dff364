r"""SRigL at 90%: connections move, and all neurons read equally many inputs.

https://arxiv.org/abs/2305.02299

  python -m experiments.train \
      --config=experiments/configs/digits/srigl_90.py \
      --workdir=runs/digits/srigl_90

Test accuracy 95.8%, of one seed (RigL: 97.1%, dense: 98.0%). A fan-in is a
whole number: of these small layers, 91.4% of the weights are pruned.
"""

from experiments.configs.digits import rigl_90


def get_config():
  config = rigl_90.get_config()
  config.method = 'srigl'
  return config
