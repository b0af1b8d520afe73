"""The format of a bundle, defined once for its writer and its readers."""
