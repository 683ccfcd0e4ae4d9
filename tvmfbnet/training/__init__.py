"""Training of a found net from scratch."""
