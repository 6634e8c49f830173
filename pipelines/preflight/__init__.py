"""Before a run pays for models: what an endpoint can do, what it makes of some captions, what would be asked."""
