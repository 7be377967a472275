"""Fills the caption tables: what is missing, asked picture by picture, written as it comes, sealed per shard."""
