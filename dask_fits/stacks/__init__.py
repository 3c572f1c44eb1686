"""Stacks: the images of many files as one array, a file a frame."""
