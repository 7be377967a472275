"""Reconciliation: source against plan against lake against Dagster's partitions."""
