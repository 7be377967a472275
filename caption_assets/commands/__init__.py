"""What the commands of `caption-assets` do: one module a command."""
