"""What only the paper's reader needs: ablation, connectivity, profiling and their plots."""
