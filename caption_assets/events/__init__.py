"""Events: outcomes of shards, datasets and jobs, and their delivery to receivers that the pipeline file names."""
