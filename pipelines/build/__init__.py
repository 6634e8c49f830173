"""A corpus as a whole: opens its configuration, plans runs, and runs them."""
