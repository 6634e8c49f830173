"""Finds near duplicates by perceptual hashes, and reads lists of images to keep out of a corpus."""
