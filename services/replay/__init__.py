"""Streams a data set into Kafka."""
