"""Trains small models dense and sparse; start reading at `train.py`.

The modules of this package are commands: `train` runs one config, `sweep` runs
many, `compare` and `domains` make tables of runs, `render` makes those of
results that are kept as data, `prune` prunes trained networks, and
`side_by_side` trains a network dense and sparse and compares all its forms.
Each subpackage imports only those listed before it:

* `_utils`: names in tables, lists of a config, one-line errors, the other
  processes of a run;
* `records`: the files of a run: its directory, metrics and checkpoints;
* `data` and `models`;
* `training`: steps, methods, many devices, the order of channels, removal of
  channels, smaller forms of what was trained;
* `reporting`: pictures and tables of the measurements of runs;
* `sweeping`: the runs of a sweep, and the processes that train them;
* `pruning`: trained networks, and how each is pruned and measured.

`configs` has a folder for each data set. `examples` are training loops of one
page each, without the code above. `benchmarks` measure time; of the commands,
`side_by_side` alone imports from them.
"""

import sys

from experiments._utils import stopping

# Only for commands that can resume, not for programs that import them: from
# here on Ctrl-C prints one line, also during the imports of the command.
_COMMANDS = {f'experiments.{name}'
             for name in (
                 'train', 'sweep', 'domains', 'prune', 'side_by_side')}
if '-m' in sys.orig_argv and _COMMANDS & {*sys.orig_argv}:
  stopping.at_start()
