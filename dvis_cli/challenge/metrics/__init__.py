"""Scores of video panoptic, instance and semantic segmentation. Numpy only; arrays in, numbers out."""
