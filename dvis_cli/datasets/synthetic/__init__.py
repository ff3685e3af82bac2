"""Synthetic scenes: videos with their panoptic truth, made from a seed."""
