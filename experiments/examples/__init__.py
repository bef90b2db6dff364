"""Training loops that prune while they train, each about a page long.

The scripts `slim_*` prune whole hidden units, cut them out, build a smaller
model with the remaining weights, and continue training. `shard_map_step`,
`checkpoint_resume`, `gradient_accumulation` and `moving_average` each show one
thing that a larger training needs. `maxtext_style` and `tunix_style` show where
the lines of jaxsparse go in loops like those of MaxText and Tunix.

The training loops are ordinary: `sparsify` around the optimizer is the only
line that prunes. The masks are in the optimizer state, so a checkpoint of
params and optimizer state includes them.

With the default flow, `hard`, the params of the loop are sparse themselves.
With another flow, such as `jaxsparse.ste()`, take gradients and evaluate at
`jaxsparse.sparse_params(params, opt_state)`.
"""
