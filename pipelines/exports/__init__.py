"""Published shard sets in the files that other trainers read."""
