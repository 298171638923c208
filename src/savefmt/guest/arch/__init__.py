"""What is known of each guest architecture: one file a family, one table over all."""
