"""Building blocks that two stages share: attention, deformable attention, position code, MLP."""
