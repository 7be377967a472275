"""Kafka: the connection, and the JSON envelopes that go in and out. What is said in them is known elsewhere."""
