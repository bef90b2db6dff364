"""Training loops of a page each that prune while they train.

The scripts `slim_*` prune whole hidden units, cut them out, make the model anew
with what is left, and train on. `shard_map_step`, `checkpoint_resume`,
`gradient_accumulation` and `moving_average` show one thing each that a larger
training needs, and `maxtext_style` and `tunix_style` where the lines of
jaxsparse go in loops like those of MaxText and Tunix.

A loop is yours: `sparsify` around the optimizer is the one line that prunes.
The masks lie in the optimizer state, so a checkpoint of params and optimizer
state has them, too.

By the default flow, `hard`, the params that the loop holds are sparse
themselves. Under another flow, such as `jaxsparse.ste()`, take gradients and
evaluate at `jaxsparse.sparse_params(params, opt_state)`.
"""
