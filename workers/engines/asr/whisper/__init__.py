"""Whisper: chunks of up to 30 s, heard side by side."""

from workers.engines.asr.whisper.recognizer import WhisperRecognizer

__all__ = ["WhisperRecognizer"]
