"""Schedules: what runs every day, and its jobs."""
