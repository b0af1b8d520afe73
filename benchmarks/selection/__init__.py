"""How well and how fast learners are selected."""
