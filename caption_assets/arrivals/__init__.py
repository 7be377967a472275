"""What arrives in a watched dataset: noticed, held until a shard is worth it, planned; and what leaves it."""
