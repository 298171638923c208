"""An image as a folder of files, computed as they are read."""
