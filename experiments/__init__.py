"""Trains small models dense and sparse; start reading at `train.py`."""
