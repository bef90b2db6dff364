"""One file a run: `get_config()` returns what it trains."""
