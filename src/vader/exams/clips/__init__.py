"""Exams on clips: propagate the masks or classes of the first frame and score the result."""
