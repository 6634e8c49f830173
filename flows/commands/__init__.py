"""The commands of `shardmill`, by what they are about. What is heavy is imported by the command that needs it."""
