"""Many learners out of one `fit`, a training cycle each."""
