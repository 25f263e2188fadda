"""Export of checkpoints to bundles, with proof that nothing changed."""
