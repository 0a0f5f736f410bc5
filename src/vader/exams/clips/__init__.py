"""Exams of clips: masks or classes of the first frame, propagated and scored."""
