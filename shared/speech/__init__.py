"""What transcription and translation have in common; they differ in what the model is told to do."""
