"""Photographs -> shards: sources, plan, decomposition, the shard format and the Ray Data jobs that run them."""
