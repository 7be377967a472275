"""Fills the caption tables: what is missing, asked picture by picture, written as it comes, sealed when a shard is done."""
