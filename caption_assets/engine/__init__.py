"""What answers prompts: one protocol, and the engines behind it."""
