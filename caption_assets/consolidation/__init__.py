"""Consolidation: small finished shards become full ones."""
