"""Tracks to better tracks: the temporal refiner, which sees a whole window (report, section 2.3)."""
