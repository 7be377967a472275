"""From original bytes to normalised pictures: decode with limits, normalise, pack into segments."""
