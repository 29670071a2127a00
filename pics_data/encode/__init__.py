"""What a model's frozen parts make of the samples of built shards, kept beside them for training."""
