"""The engine: partitions, commits, the root, the ledger, and workers. It does not know any stage."""
