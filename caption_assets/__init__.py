"""Captions for pictures as data assets: planned, fetched, normalised, described, and queried."""

from caption_assets import malloc

malloc.settle()
