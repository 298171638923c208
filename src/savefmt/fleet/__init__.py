"""Many images at once: found, worked on by processes of their own, and journaled."""
