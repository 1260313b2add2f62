"""Embedded Valkey and Kafka-compatible broker for one machine; starts processes, imports no service."""
