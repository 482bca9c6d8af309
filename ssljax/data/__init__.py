"""Input: prepared video, windows of frames, and the loader that batches them on the host (NumPy and Grain only)."""
