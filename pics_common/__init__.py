"""What every command shares: one-line errors for users, recipes, the frame of the pages. Knows no shard and no model."""
