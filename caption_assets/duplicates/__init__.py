"""Near duplicates: pictures whose perceptual hashes differ in a few bits."""
