"""What a scorer reads: the formats of VIPSeg, YouTube-VIS and VSPW, their checks, scores and tables."""
