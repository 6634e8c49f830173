"""The stages and what makes them. Never imports torch or `training`: the shard on disk is the contract."""
