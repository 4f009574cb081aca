"""What would run, what need not, and how long the rest takes."""
