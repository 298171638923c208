"""What savefmt knows about each guest architecture: one file a family, one table for all."""
