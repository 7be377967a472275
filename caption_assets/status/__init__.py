"""Status: how far every dataset, shard and perspective is; what the command line, the catalog and the UI show."""
