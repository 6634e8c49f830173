"""What keeps a root in order: verify, clean, take down."""
