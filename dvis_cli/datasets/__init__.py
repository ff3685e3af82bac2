"""VIPSeg: its label set, its layouts, and submissions to its scorer."""
