"""What LiteRT computes in integers, and how it rounds."""
