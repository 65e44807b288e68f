"""What the latents of several modalities or models share: concepts, features, measures, nulls and the study."""
