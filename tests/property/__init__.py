"""What holds for every input: Hypothesis against an independent model."""
