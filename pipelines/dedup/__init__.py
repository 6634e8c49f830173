"""Near duplicates by perceptual hashes, and images that are kept out of a corpus."""
