"""Studies from the paper: ablation, connectivity, memory and speed, and their plots."""
