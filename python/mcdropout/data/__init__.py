"""What users hold, as rows, labels, images and batches."""
