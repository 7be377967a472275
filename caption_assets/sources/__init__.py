"""Where pictures come from: one module a kind of dataset, and the planner that cuts them into shards."""
