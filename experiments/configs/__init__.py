"""A folder a data set, a file a run: `get_config()` returns what it trains."""
