"""Parts shared by the recipes: data, batches, training loop, probes."""
