"""What training reads: VIPSeg and COCO panoptic, their label sets, synthetic scenes, augmentation."""
