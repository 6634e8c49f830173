"""What the OCR stage uses: engines, the order in which lines are read, and whether a text is good."""
