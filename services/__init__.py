"""The processes: ranker, local stack, replay, command line."""
