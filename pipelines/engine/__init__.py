"""What makes: partitions and their commits, the root they lie in, the ledger, and the workers. It knows no stage."""
