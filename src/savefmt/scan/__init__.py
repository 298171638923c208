"""The content of the guest's memory: search, strings, hashes, statistics, pictures, its system."""
