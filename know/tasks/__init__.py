"""What is learned: loss, metric, head, augmentation."""
