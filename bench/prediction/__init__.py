"""The study behind docs/prediction.md: what each choice in prediction and planning is worth."""
