"""Scripts that measure this package; every figure in the documents comes from them."""
