"""Who can load what, what to write for whom, and what this host can do."""
