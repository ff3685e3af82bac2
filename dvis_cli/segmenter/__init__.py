"""Frames to queries: Mask2Former with a ResNet or Swin backbone (report, section 2.1)."""
