"""Studies -> a checkpoint: sampling, augmentation, objective and loop."""
