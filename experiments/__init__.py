"""Trains small models dense and sparse; start reading at `train.py`.

Commands stand here: `train` runs one config, `sweep` many, `compare` and
`domains` make tables of runs, `prune` prunes what is trained. Their rooms, each
of which imports only rooms above it:

* `_utils`: names looked up in tables, lists of a config, mistakes told in one
  line, the other processes of a run;
* `records`: the files of a run, that is its directory, metrics, checkpoints;
* `data` and `models`;
* `training`: steps, methods, many devices, the order of channels, channels cut
  out;
* `reporting`: pictures and tables of what runs measured;
* `sweeping`: which runs a sweep has, and the processes that train them;
* `pruning`: trained networks, and how each is pruned and measured.

`configs` has a folder a data set; `examples` are loops of a page each, with
nothing of the above; `benchmarks` measure time.
"""

import sys

from experiments._utils import stopping

# A command that goes on where it stopped, and not a program that imports it:
# from here on Ctrl-C costs one line, also while the command still imports.
_COMMANDS = {f'experiments.{name}'
             for name in ('train', 'sweep', 'domains', 'prune')}
if '-m' in sys.orig_argv and _COMMANDS & {*sys.orig_argv}:
  stopping.at_start()
