"""Configs of runs: one folder for each data set, one file for each run.

`get_config()` of a file returns the config.
"""
