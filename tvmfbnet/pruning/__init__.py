"""Small nets by pruning: rounds of training, removing what matters least, and rewinding (lottery tickets)."""
