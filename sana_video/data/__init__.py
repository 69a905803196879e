"""What training reads: shards on disk, the order in which they are seen, and batches by step number."""
