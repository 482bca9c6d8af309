"""What a run learned, for people: pictures, numbers and a page."""
