"""Collisionless, expirable embedding tables: in memory, in one commit log, in Redis. No model, no event, no HTTP."""
