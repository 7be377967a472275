"""Exports: a dataset's pictures and captions in the formats that training starts from."""
