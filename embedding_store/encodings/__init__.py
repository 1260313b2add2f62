"""Ways to hold a table: with the store's own rows, or with fewer numbers. One file each, one interface."""
