"""Dimension search over a static data set: how many numbers a vector needs, by how often its id is seen."""
