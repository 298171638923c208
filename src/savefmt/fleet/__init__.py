"""Many images at once: find them, process them in separate processes, keep a journal."""
