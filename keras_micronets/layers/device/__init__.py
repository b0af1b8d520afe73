"""What a device computes, in integers: LiteRT with XNNPACK."""
