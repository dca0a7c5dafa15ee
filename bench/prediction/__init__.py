"""What prediction and planning are worth, choice by choice: the study behind docs/prediction.md."""
