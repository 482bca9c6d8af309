"""Input: video, windows of frames, and the loader that batches them on the host (NumPy, PyAV and Grain only)."""
