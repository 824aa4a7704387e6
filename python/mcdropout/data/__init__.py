"""The users' data as rows, labels, images and batches."""
