"""The commands of `shardmill`, by topic. A command imports heavy modules only when it runs."""
