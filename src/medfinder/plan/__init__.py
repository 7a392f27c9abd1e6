"""What an archive of any size will cost: measured costs of one study, and the sum of millions."""
