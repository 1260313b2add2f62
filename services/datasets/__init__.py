"""One reader a data set, and the slices that ship with the product."""
