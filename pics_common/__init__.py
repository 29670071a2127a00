"""What every command shares: errors in one line, recipes, the frame of the pages. Knows no shard and no model."""
