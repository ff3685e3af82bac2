"""Training of the three stages: clips, targets, matching, losses, loop."""
