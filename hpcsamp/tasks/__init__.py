"""What the targets of a set are, and what is predicted and measured of them."""
