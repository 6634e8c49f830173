"""Parts of the OCR stage: engines, the reading order of lines, and the quality of a text."""
